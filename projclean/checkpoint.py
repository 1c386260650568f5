"""A read-only, lazy view of a model directory or of a bare projector file.

Opening reads headers only; a tensor's bytes are read when it is asked for. They are read, not memory-mapped: a file
that is cut short while it is mapped kills the process, a short read is an error like any other.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projclean.errors import CheckpointError
from projclean.header import HeaderError, parse_header, parse_json
from projclean.untrusted import Stamp, check_tree, is_directory, is_file, open_regular, read_bytes

if TYPE_CHECKING:
    import torch

    from projclean.adapter import Adapter
    from projclean.derived import Derived

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")

JSON_LIMIT = 4 << 20  # bytes of config.json and its kin; the largest in use stay below 1 MiB
INDEX_LIMIT = 32 << 20  # 140,000 tensors in 60 shards make 14 MiB
CHANGED = "changed while it was being read; leave the model alone and run again"


@dataclass(frozen=True)
class Place:
    """A tensor's bytes, `start` to `stop` of a file that had this `stamp` when its header was read."""

    start: int
    stop: int
    stamp: Stamp


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies and what its header says of it; `dtype` is safetensors' name, such as BF16.

    `place` is None for a tensor that is not read from a safetensors file.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    place: Place | None = None


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: `path` is a model directory, or a file holding a projector alone.

    `stamps` are those of all files of the directory, by relative path, when it was opened. A view computes some
    tensors (`derived`) from what lies in `behind`: an `adapter` laid over its base, float8 weights with their scales,
    tensors that were unpickled.
    """

    path: Path
    tensors: Mapping[str, TensorEntry]
    config: Mapping[str, Any] = field(default_factory=dict)
    stamps: Mapping[str, Stamp] = field(default_factory=dict)
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
    if is_file(path):
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path}: not a .safetensors file; pass a model directory or a projector.safetensors")
        return Checkpoint(path, read_header(path))
    if not is_directory(path):
        raise CheckpointError(f"{path}: no such model directory or .safetensors file")
    remedy = "every transformers model directory has one; is this a model?"
    if not os.path.lexists(path / "config.json"):
        raise CheckpointError(f"{path / 'config.json'}: missing; {remedy}")
    stamps = check_tree(path)
    config = read_json(path / "config.json", remedy)
    return Checkpoint(path, _read_directory(path, config), config, stamps)


def read_tensor(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """Read one tensor in its stored dtype; one that is computed, in float32.

    Raises CheckpointError, also when the file changed since it was opened.
    """
    if name in checkpoint.derived:
        return checkpoint.derived[name].read()
    import torch

    from projclean.dtypes import STORED

    entry = checkpoint.tensors[name]
    if entry.dtype not in STORED:
        raise CheckpointError(f"{entry.file}: {name} is stored as {entry.dtype}, which cannot be read here; convert it")
    data = _read_bytes_of(checkpoint, entry)
    if not data:
        return torch.empty(entry.shape, dtype=STORED[entry.dtype])
    flat = torch.frombuffer(data, dtype=torch.uint8).view(STORED[entry.dtype])
    packed = math.prod(entry.shape) // max(flat.numel(), 1)  # float4 keeps two values in a byte
    return flat.reshape((*entry.shape[:-1], entry.shape[-1] // packed) if packed > 1 else entry.shape)


def check_unchanged(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError when a file is no longer the one that was there when the checkpoint was opened."""
    known = {checkpoint.path / name: stamp for name, stamp in checkpoint.stamps.items()}
    known |= {entry.file: entry.place.stamp for entry in checkpoint.tensors.values() if entry.place}
    for file, stamp in known.items():
        try:
            same = Stamp.of(file) == stamp
        except OSError:
            same = False
        if not same:
            raise CheckpointError(f"{file}: {CHANGED}")


def read_json(path: Path, remedy: str, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes from a file of a model directory."""
    try:
        value = parse_json(read_bytes(path, limit, path.parent))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; {remedy}") from error
    except (OSError, HeaderError) as error:
        raise CheckpointError(f"{path}: cannot be read ({_one_line(error)}); {remedy}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object; {remedy}")
    return value


def _read_bytes_of(checkpoint: Checkpoint, entry: TensorEntry) -> bytearray:
    place = entry.place
    assert place is not None  # whoever leaves it out reads the tensor another way
    try:
        data = bytearray(place.stop - place.start)
        with open_regular(entry.file, None if checkpoint.is_bare else entry.file.parent) as handle:
            before = Stamp.of(handle)
            handle.seek(place.start)
            count = handle.readinto(data)  # type: ignore[attr-defined]
            same = before == place.stamp and Stamp.of(handle) == place.stamp and count == len(data)
    except MemoryError as error:
        raise CheckpointError(f"{entry.file}: {entry.name} does not fit in memory; use a larger machine") from error
    except OSError as error:
        raise CheckpointError(f"{entry.file}: cannot read tensor {entry.name} ({_one_line(error)})") from error
    if not same:
        raise CheckpointError(f"{entry.file}: {CHANGED}")
    return data


def _read_directory(path: Path, config: Mapping[str, Any]) -> dict[str, TensorEntry]:
    index, single = path / INDEX, path / SINGLE
    _check_one_reading(path, config)
    if not os.path.lexists(index):
        if not os.path.lexists(single):
            pickles = sorted(path.glob("*.bin"))
            remedy = (
                f"only pickled weights ({pickles[0].name}) are here; convert them to safetensors first"
                if pickles
                else "download the weights, or pass the directory that holds them"
            )
            raise CheckpointError(f"{path}: no {SINGLE} or {INDEX}; {remedy}")
        return read_header(single, path)
    return _read_shards(path, read_json(index, "download it again", INDEX_LIMIT).get("weight_map"))


def _check_one_reading(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a directory of which another loader may read other weights than are read here."""
    present = [name for name in (SINGLE, INDEX) if os.path.lexists(path / name)]
    if len(present) == 2:
        raise CheckpointError(f"{path}: holds both {SINGLE} and {INDEX}; loaders differ in which they read, remove one")
    named = config.get("transformers_weights")
    if named is not None and present != [named]:
        raise CheckpointError(f"{path / 'config.json'}: names other weights ({named!r}); rename them to {SINGLE}")
    adapter = next((name for name in ADAPTERS if present and os.path.lexists(path / name)), None)
    if adapter:
        raise CheckpointError(
            f"{path}: holds whole weights and an adapter ({adapter}); loaders differ in which they read, separate them"
        )


def _read_shards(path: Path, weight_map: object) -> dict[str, TensorEntry]:
    index = path / INDEX
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: has no usable weight_map; download it again")
    tensors: dict[str, TensorEntry] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or shard in ("", ".", "..") or "\0" in shard:
            raise CheckpointError(f"{index}: points outside the model directory ({shard!r}); do not trust this model")
        if not shard.endswith(".safetensors"):
            raise CheckpointError(f"{index}: names {shard!r}, not a .safetensors file; do not trust this model")
        if not os.path.lexists(path / shard):
            raise CheckpointError(f"{path / shard}: missing shard named by {INDEX}; download it again")
        found = read_header(path / shard, path)
        twice = min(set(found) & set(tensors), default=None)
        if twice is not None:
            raise CheckpointError(f"{path / shard}: {twice} is also in {tensors[twice].file.name}; download it again")
        tensors.update(found)
    for name, shard in weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{index}: lists {name}, which no shard holds; download the model again")
        if tensors[name].file.name != shard:
            raise CheckpointError(f"{index}: says {name} is in {shard}, it is in {tensors[name].file.name}; mend it")
    return tensors


def read_header(file: Path, root: Path | None = None) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file; reads its header alone. `root` is what its link must not leave."""
    try:
        with open_regular(file, root) as handle:
            stamp = Stamp.of(handle)
            found = parse_header(handle, stamp.size)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise CheckpointError(f"{file}: missing; download it again") from error
        raise CheckpointError(f"{file}: cannot be read ({_one_line(error)}); download it again") from error
    except HeaderError as error:
        raise CheckpointError(
            f"{file}: not a sound safetensors file ({_one_line(error)}); download it again"
        ) from error
    return {
        name: TensorEntry(name, file, entry.dtype, entry.shape, Place(entry.start, entry.stop, stamp))
        for name, entry in found.items()
    }


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
