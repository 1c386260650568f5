"""A read-only, lazy view of a model directory or of a bare projector file.

Opening reads headers only; a tensor's bytes are read when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projclean.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from projclean.adapter import Adapter
    from projclean.derived import Derived

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies and what its header says of it; `dtype` is safetensors' name, such as BF16."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: `path` is a model directory, or a file holding a projector alone.

    A view computes some tensors (`derived`) from what lies in `behind`: an `adapter` laid over its base, float8
    weights with their scales, tensors that were unpickled.
    """

    path: Path
    tensors: Mapping[str, TensorEntry]
    config: Mapping[str, Any] = field(default_factory=dict)
    derived: Mapping[str, Derived] = field(default_factory=dict)
    behind: Checkpoint | None = None
    adapter: Adapter | None = None

    @property
    def files(self) -> Checkpoint:
        """The stored tensors: what a repair writes to."""
        return self.behind or self

    @property
    def is_partial(self) -> bool:
        """True for a bare projector or an adapter: it runs only over a base."""
        return self.is_bare or self.adapter is not None

    @property
    def is_bare(self) -> bool:
        """True for a projector file without a model around it."""
        return self.path.is_file()

    @property
    def model_type(self) -> str | None:
        value = self.config.get("model_type")
        return value if isinstance(value, str) else None

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files, in name order."""
        return sorted({entry.file for entry in self.tensors.values()})


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a directory (single-file or sharded safetensors) or a .safetensors file.

    Raises CheckpointError when it is neither, or when a header, the index or config.json cannot be trusted.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path}: not a .safetensors file; pass a model directory or a projector.safetensors")
        return Checkpoint(path, read_header(path))
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such model directory or .safetensors file")
    config = read_json(path / "config.json", "every transformers model directory has one; is this a model?")
    return Checkpoint(path, _read_directory(path), config)


def read_tensor(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """Read one tensor in its stored dtype; one that is computed, in float32."""
    if name in checkpoint.derived:
        return checkpoint.derived[name].read()
    from safetensors import SafetensorError, safe_open

    entry = checkpoint.tensors[name]
    try:
        with safe_open(entry.file, framework="pt") as handle:
            return handle.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{entry.file}: cannot read tensor {name} ({_one_line(error)})") from error


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object from a file of a model directory."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; {remedy}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({_one_line(error)}); {remedy}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object; {remedy}")
    return value


def _read_directory(path: Path) -> dict[str, TensorEntry]:
    index = path / INDEX
    if not index.exists():
        single = path / SINGLE
        if not single.exists():
            pickles = sorted(path.glob("*.bin"))
            remedy = (
                f"only pickled weights ({pickles[0].name}) are here; convert them to safetensors first"
                if pickles
                else "download the weights, or pass the directory that holds them"
            )
            raise CheckpointError(f"{path}: no {SINGLE} or {INDEX}; {remedy}")
        return read_header(single)
    weight_map = read_json(index, "download it again").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: has no usable weight_map; download it again")
    tensors: dict[str, TensorEntry] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise CheckpointError(f"{index}: points outside the model directory ({shard!r}); do not trust this model")
        if not (path / shard).exists():
            raise CheckpointError(f"{path / shard}: missing shard named by {INDEX}; download it again")
        tensors.update(read_header(path / shard))
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise CheckpointError(f"{index}: lists {absent[0]}, which no shard holds; download the model again")
    return tensors


def read_header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file; reads its header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as handle:
            entries = {}
            for name in handle.keys():  # noqa: SIM118 - a handle, not a dict
                part = handle.get_slice(name)
                entries[name] = TensorEntry(name, file, part.get_dtype(), tuple(part.get_shape()))
            return entries
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}: not a complete safetensors file ({_one_line(error)}); download it again"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
