"""Finds a checkpoint's projector layers. The patterns are data, in projectors.toml."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import prod
from typing import Any

from projclean.checkpoint import Checkpoint
from projclean.errors import CheckpointError, OptionError, ProjectorNotFound
from projclean.structure import guess_modules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: How the family of a projector that was found by its structure begins.
GUESS = "guess:"

_PREFIX = re.compile(r"^(?:base_model\.model\.|model\.|module\.|vlm\.|thinker\.|paligemma_with_expert\.paligemma\.)+")
_MATRICES = r"(?!.*(?:^|[._])embeddings?\.weight$).*\.(?:in_proj_)?weight$"
_FUSED = re.compile(r".*\.in_proj_weight$")  # torch.nn.MultiheadAttention


@dataclass(frozen=True)
class LayerSpec:
    """One weight matrix: `name` is the same in every layout, `weight` and `bias` are this layout's keys.

    `shape` is (out, in) however the tensor is stored (layout.py): transposed, as a convolution's kernel, or as
    `rows` of a fused tensor. `input_from` names the module whose output the matrix multiplies, where the matrix is
    not the weight of a module of its own; `argument` is the position of its input among that module's arguments.
    """

    name: str
    weight: str
    bias: str | None
    shape: tuple[int, int]
    transposed: bool = False
    input_from: str | None = None
    rows: tuple[int, int] | None = None
    argument: int = 0


@dataclass(frozen=True)
class ProjectorSpec:
    """A projector: its weight matrices in name order, and its remaining parameters (norms, queries)."""

    family: str
    layers: tuple[LayerSpec, ...]
    others: Mapping[str, str]

    @property
    def guessed(self) -> bool:
        """True when no known name matched and the projector was found by its structure."""
        return self.family.startswith(GUESS)

    @property
    def keys(self) -> frozenset[str]:
        """Every key of the checkpoint that belongs to the projector."""
        biases = {layer.bias for layer in self.layers if layer.bias}
        return frozenset({layer.weight for layer in self.layers} | biases | set(self.others.values()))


def canonical(key: str) -> str:
    """A tensor's name without the prefixes that differ between layouts."""
    return _PREFIX.sub("", key)


def other_names(name: str) -> set[str]:
    """What a canonical name may be in memory, by every family's rules for saved and older names."""
    return {
        re.sub(old, new, name, count=1)
        for entry in families()
        if not entry.get("typed")
        for old, new in entry.get("renames", ())
        if re.match(old, name)
    }


def find_projector(checkpoint: Checkpoint, pattern: str | None = None) -> ProjectorSpec:
    """The projector of a checkpoint; `pattern` is a regular expression for its weight matrices.

    Raises ProjectorNotFound when nothing matches, OptionError when `pattern` is not a regular expression.
    """
    shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    try:
        spec = match_projector(shapes, checkpoint.model_type, pattern)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    if spec is None:
        sought = f"--projector {pattern!r} matches no matrix" if pattern else "no known projector"
        kind = f" (model_type {checkpoint.model_type})" if checkpoint.model_type else ""
        raise ProjectorNotFound(
            f"{checkpoint.path}: {sought}{kind}; name its weight matrices with --projector REGEX, "
            "as in --projector 'my_connector.*weight'"
        )
    _refuse_twins(checkpoint, spec)
    return spec


def _refuse_twins(checkpoint: Checkpoint, spec: ProjectorSpec) -> None:
    """Two tensors that claim one place: this scan would read one of them, and a loader perhaps the other."""
    names = {canonical(key): key for key in spec.keys}
    for key in checkpoint.tensors:
        twin = names.get(canonical(key), key)
        if twin != key:
            raise CheckpointError(f"{checkpoint.path}: holds both {key} and {twin}; remove the one that is not used")


def match_projector(
    shapes: Mapping[str, tuple[int, ...]], model_type: str | None, pattern: str | None = None
) -> ProjectorSpec | None:
    """Match tensor names and shapes against the known families, then by structure; None when neither matches.

    Raises CheckpointError when two tensors are the same part of the projector under different names.
    """
    if pattern is not None:
        own = rf"(?-x:.*(?:{pattern}))"
        try:
            re.compile(own)
        except re.error as error:
            raise OptionError(f"--projector {pattern!r}: not a regular expression ({error})") from error
        return _match(shapes, {"family": "--projector", "module": own, "layers": own})
    named = [entry for entry in families() if model_type in entry["model_types"]]
    tried = named or [entry for entry in families() if not entry.get("typed")]
    likely = _likely(shapes, tried)
    for entry in tried:
        spec = _match(likely, entry)
        if spec is not None:
            return spec
    return guess_projector(shapes)


def guess_projector(shapes: Mapping[str, tuple[int, ...]]) -> ProjectorSpec | None:
    """The projector by the shapes of the weights alone, whatever they are called; None when there is no telling."""
    modules = guess_modules({canonical(key): shape for key, shape in shapes.items()})
    if not modules:
        return None
    inside = "|".join(re.escape(module) for module in modules)
    return _match(shapes, {"family": f"{GUESS} {', '.join(modules)}", "module": rf"(?:{inside})\."})


def _likely(shapes: Mapping[str, tuple[int, ...]], entries: list[dict[str, Any]]) -> dict[str, tuple[int, ...]]:
    """The tensors that any of the families could take: few of the many thousands that a large model has."""
    patterns = [f"(?x:{entry['module']})" for entry in entries]
    patterns += [f"(?:{old})" for entry in entries for old, _ in entry.get("renames", ())]
    any_of = re.compile("|".join(patterns))
    return {key: shape for key, shape in shapes.items() if any_of.match(canonical(key))}


def _match(shapes: Mapping[str, tuple[int, ...]], entry: Mapping[str, Any]) -> ProjectorSpec | None:
    inside = _inside(shapes, entry)
    matrices = re.compile(entry.get("layers", _MATRICES), re.VERBOSE)
    transposed = re.compile(entry.get("transposed", r"$^"), re.VERBOSE)
    layers: list[LayerSpec] = []
    taken: set[str | None] = set()
    for name in sorted(inside, key=_natural):
        key, shape = inside[name], shapes[inside[name]]
        flip, fused = bool(transposed.match(canonical(key))), bool(_FUSED.match(name))
        if len(shape) < 2 or not all(shape) or not matrices.match(name):
            continue
        if (flip or fused) and (len(shape) > 2 or (fused and shape[0] % 3)):
            continue
        bias = _bias_of(key, shapes)
        taken |= {key, bias}
        if fused:
            layers += _split(name, key, bias, shape)
            continue
        out, width = (shape[1], shape[0]) if flip else (shape[0], prod(shape[1:]))
        source = None if name.endswith(".weight") else entry.get("input_from")
        layers.append(LayerSpec(name.removesuffix(".weight"), key, bias, (out, width), flip, source))
    if not layers:
        return None
    others = {name: key for name, key in inside.items() if key not in taken}
    return ProjectorSpec(entry["family"], tuple(layers), others)


def _inside(shapes: Mapping[str, tuple[int, ...]], entry: Mapping[str, Any]) -> dict[str, str]:
    """The projector's tensors: from their names in memory, without prefixes, to this layout's keys."""
    module = re.compile(entry["module"], re.VERBOSE)
    renames = [(re.compile(old), new) for old, new in entry.get("renames", ())]
    inside: dict[str, str] = {}
    for key in shapes:
        name = canonical(key)
        for old, new in renames:
            if old.match(name):
                name = old.sub(new, name, count=1)
                break
        if not module.match(name):
            continue
        if name in inside:
            raise CheckpointError(f"{inside[name]} and {key} are both {name}; it is unclear which one a model loads")
        inside[name] = key
    return inside


def _split(name: str, key: str, bias: str | None, shape: tuple[int, ...]) -> list[LayerSpec]:
    """torch's fused attention weight: rows of the query, the key and the value, each with an input of its own."""
    width, parent = shape[0] // 3, name.rpartition(".")[0]
    return [
        LayerSpec(f"{parent}.{part}", key, bias, (width, shape[1]), rows=(n * width, (n + 1) * width), argument=n)
        for n, part in enumerate(("query", "key", "value"))
    ]


def _bias_of(weight: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    bias = weight.removesuffix("weight") + "bias"
    return bias if weight.endswith("weight") and bias in shapes else None


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which layers.10 follows layers.9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


@cache
def families() -> list[dict[str, Any]]:
    """The entries of projectors.toml, in the order in which they are tried."""
    text = resources.files("projclean").joinpath("projectors.toml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = tomllib.loads(text)["projector"]
    return entries
