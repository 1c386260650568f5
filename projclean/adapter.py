"""PEFT adapters: a directory, checked and read as what it changes of a base (`merging` computes it).

LoRA (Hu et al., arXiv 2106.09685) adds `s·B·A` to a matrix, with `s = alpha / r`, or `alpha / √r` when
rank-stabilised (rsLoRA, arXiv 2312.03732). DoRA (arXiv 2402.09353) then scales every output row to a learned norm.
Modules in `modules_to_save` and trained biases replace the base's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projclean.access import Access
from projclean.checkpoint import Checkpoint, TensorEntry, read_header, read_json
from projclean.errors import CheckpointError
from projclean.untrusted import check_tree

if TYPE_CHECKING:
    pass

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
EXTRA = "non_lora_trainables.bin"  # LLaVA's own training code keeps the projector beside the adapter

#: Settings that change no weight, or whose effect is computed here.
UNDERSTOOD = {
    "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r",
    "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora",
    "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    "megatron_core", "trainable_token_indices", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "use_dora", "qalora_group_size", "runtime_config", "lora_bias", "ensure_weight_tying", "peft_version",
    "velora_config",
}  # fmt: skip
#: Initialisations that leave the base's weights alone when the adapter is loaded; the others subtract from them.
PLAIN_INITS = {"gaussian", "eva", "orthogonal", "true", "false"}

_LORA = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B|"
    r"lora_magnitude_vector(?:\.weight)?)$"
)
_PARTS = {
    "lora_A.weight": "a", "lora_B.weight": "b", "lora_B.bias": "bias", "lora_embedding_A": "a",
    "lora_embedding_B": "b", "lora_magnitude_vector": "magnitude", "lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What an adapter does to one parameter. The fields but `scale` and `embedding` name tensors of the adapter.

    `replaced` stands for the base's value; `a` (r, in) and `b` (out, r) add `scale`·B·A; `magnitude` (out,) is
    DoRA's; `bias` adds `scale` times itself.
    """

    scale: float = 1.0
    embedding: bool = False
    replaced: str | None = None
    a: str | None = None
    b: str | None = None
    magnitude: str | None = None
    bias: str | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(key for key in (self.replaced, self.a, self.b, self.magnitude, self.bias) if key is not None)

    @property
    def invertible(self) -> bool:
        """Whether a wanted value can be expressed by changing the adapter: not through DoRA's norms."""
        return self.magnitude is None


@dataclass(frozen=True)
class Adapter:
    """An opened adapter: its stored tensors, and its changes by the parameter's name as PEFT has it."""

    files: Checkpoint
    changes: Mapping[str, Change]
    unread: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.files.path


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter. Raises CheckpointError when it holds a whole model besides."""
    if not (path / CONFIG).is_file():
        return False
    weights = [name for name in (WEIGHTS, PICKLED) if (path / name).exists()]
    whole = sorted({*path.glob("model*.safetensors*"), *path.glob("pytorch_model*.bin")})
    if weights and whole:
        raise CheckpointError(
            f"{path}: holds a whole model ({whole[0].name}) and an adapter ({weights[0]}), which transformers lays "
            "over it when peft is installed; move one of them to a directory of its own"
        )
    return bool(weights) or not whole


def open_adapter(path: Path, access: Access) -> Adapter:
    """Open a PEFT LoRA directory.

    Raises CheckpointError when it is of another kind, uses a variant whose effect on the weights is not known here,
    or does not fit together.
    """
    config = read_json(path / CONFIG, "download the adapter again")
    _check_config(path / CONFIG, config)
    files = _open_files(path, access)
    changes: dict[str, dict[str, Any]] = {}
    unread = []
    for key in files.tensors:
        name = key.removeprefix("base_model.model.")
        found = _LORA.match(name)
        if found and (found["part"] != "lora_B.bias" or config.get("lora_bias")):
            module, part = found["module"], _PARTS[found["part"]]
            change = changes.setdefault(f"{module}.{'bias' if part == 'bias' else 'weight'}", {})
            change |= {part: key, "scale": _scale(config, module)}
            if found["part"].startswith("lora_embedding"):
                change["embedding"] = True
            if part in "ab":
                _check_rank(files, key, part, _rank(config, module))
        elif "lora_" in name or "token_adapter" in name or "original_module" in name:
            unread.append(key)
        else:
            plain = re.sub(r"\.(?:base_layer|modules_to_save)(?=\.[^.]+$)", "", name)
            changes.setdefault(plain, {})["replaced"] = key
    for name, change in list(changes.items()):
        halves, normed = ("a" in change) + ("b" in change), "magnitude" in change
        dora = bool(config.get("use_dora"))
        if halves == 1 or normed != (dora and halves == 2):
            raise CheckpointError(
                f"{path}: the LoRA of {name} is incomplete, or {CONFIG} does not fit it; download the adapter again"
            )
        if "magnitude" in change and change.get("embedding"):
            unread += [key for key in change.values() if isinstance(key, str)]
            del changes[name]
    return Adapter(files, {name: Change(**change) for name, change in changes.items()}, tuple(unread), config)


def _check_config(file: Path, config: Mapping[str, Any]) -> None:
    merge = "merge it into its base with PEFT's merge_and_unload() and pass the merged directory"
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{file}: a {str(kind)[:40]} adapter, only LORA is read here; {merge}")
    start = config.get("init_lora_weights", True)
    if str(start).lower() not in PLAIN_INITS and start is not None:
        raise CheckpointError(
            f"{file}: init_lora_weights {str(start)[:40]!r} changes the base's weights when PEFT loads it; {merge}"
        )
    for name, value in config.items():
        if name not in UNDERSTOOD and value:
            raise CheckpointError(f"{file}: sets {name[:60]}, whose effect is not known here; {merge}")
    for name in ("r", "lora_alpha"):
        if not _is_number(config.get(name, 8)):
            raise CheckpointError(f"{file}: {name} is no sensible number; download the adapter again")
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict) or not all(map(_is_number, pattern.values())):
            raise CheckpointError(f"{file}: {name} does not map names to numbers; download the adapter again")
        for text in pattern:
            if len(text) > 200 or len(re.findall(r"[*+{?]", text)) > 2 or re.search(r"\)[*+{]", text):
                raise CheckpointError(f"{file}: {name} has a pattern too intricate to try ({text[:40]!r}); {merge}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e9


def _open_files(path: Path, access: Access) -> Checkpoint:
    from projclean.pickles import open_pickle

    stamps = check_tree(path)
    if (path / WEIGHTS).exists():
        files = Checkpoint(path, read_header(path / WEIGHTS, path))
    elif (path / PICKLED).exists():
        files = open_pickle(path / PICKLED, access)
    else:
        raise CheckpointError(f"{path}: no {WEIGHTS} beside {CONFIG}; download the adapter again")
    tensors, derived = dict(files.tensors), dict(files.derived)
    if (path / EXTRA).exists():
        extra = open_pickle(path / EXTRA, access)
        tensors |= extra.tensors
        derived |= extra.derived
    return Checkpoint(path, tensors, stamps=stamps, derived=derived)


def _rank(config: Mapping[str, Any], module: str) -> int:
    return int(_of_pattern(config.get("rank_pattern"), module, config.get("r", 8)))


def _scale(config: Mapping[str, Any], module: str) -> float:
    rank = max(_rank(config, module), 1)
    alpha = float(_of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_pattern(pattern: Mapping[str, float] | None, module: str, default: float) -> float:
    """PEFT's rule: the first key that matches the whole end of the module's name."""
    for key, value in (pattern or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error:
            continue
    return default


def _check_rank(files: Checkpoint, key: str, part: str, rank: int) -> None:
    entry: TensorEntry = files.tensors[key]
    if len(entry.shape) < 2 or entry.shape[0 if part == "a" else 1] != rank or not math.prod(entry.shape):
        raise CheckpointError(
            f"{entry.file}: {key} is {list(entry.shape)}, but {CONFIG} says rank {rank}; download the adapter again"
        )
