"""Tensors that are computed from stored ones (adapters, float8 with scales), and the way back into the files.

Reading and storing are given together, so that what a repair writes is exactly what a later scan will read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from projclean.checkpoint import Checkpoint, read_tensor
from projclean.errors import OutputError

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Derived:
    """A tensor behind a key that no file holds as such.

    `sources` are the stored tensors of `files` it is computed from: `decode` takes them to the value, `encode` takes
    a wanted value (float32, in the value's shape) to the stored tensors that have to change for it. Without an
    `encode` the tensor can be read but not repaired.
    """

    files: Checkpoint
    sources: tuple[str, ...]
    decode: Callable[[Tensors], torch.Tensor]
    encode: Callable[[torch.Tensor, Tensors], dict[str, torch.Tensor]] | None = None

    def read(self) -> torch.Tensor:
        """The value."""
        return self.decode(self._stored())

    def to_stored(self, value: torch.Tensor) -> dict[str, torch.Tensor]:
        """The stored tensors that make it `value`, in their stored dtypes; none when it is that already."""
        import torch

        assert self.encode is not None  # writable() was asked first
        stored = self._stored()
        if torch.equal(value.float(), self.decode(stored).float()):
            return {}
        changed = self.encode(value, stored)
        return {key: as_stored(self.files, key, tensor) for key, tensor in changed.items()}

    def round_trip(self, value: torch.Tensor) -> torch.Tensor:
        """`value` as it will be read back once it is stored."""
        return self.decode({**self._stored(), **self.to_stored(value)})

    def _stored(self) -> dict[str, torch.Tensor]:
        return {key: read_tensor(self.files, key) for key in self.sources}


def as_stored(files: Checkpoint, key: str, value: torch.Tensor) -> torch.Tensor:
    """`value` in the dtype that `key` has; float8 and float16 saturate where they would overflow."""
    import torch

    from projclean.dtypes import TORCH

    entry = files.tensors[key]
    if entry.dtype not in TORCH:
        raise OutputError(f"{entry.file}: {key} is stored as {entry.dtype}, in which a repair cannot be written")
    dtype = TORCH[entry.dtype]
    most = torch.finfo(dtype).max
    return value.float().clamp(-most, most).to(dtype) if dtype != torch.float64 else value.double()


def writable(checkpoint: Checkpoint, key: str) -> bool:
    """Whether a repaired value of `key` can be put into the files."""
    own = _own(checkpoint, key)
    return own is None or own.encode is not None


def to_stored(checkpoint: Checkpoint, values: Tensors) -> dict[str, torch.Tensor]:
    """Repaired values, by the view's keys, as tensors of the files behind it, in their dtypes.

    What an adapter does not reach stays the base's, which is not written.
    """
    result: dict[str, torch.Tensor] = {}
    for key, value in values.items():
        own = _own(checkpoint, key)
        if own is not None:
            result |= own.to_stored(value)
        elif checkpoint.adapter is None:
            result[key] = as_stored(checkpoint.files, key, value)
    return result


def round_trip(checkpoint: Checkpoint, key: str, value: torch.Tensor) -> torch.Tensor:
    """A repaired value as it will be read back from what `to_stored` gives, float32."""
    own = _own(checkpoint, key)
    if own is not None:
        return own.round_trip(value).float()
    if checkpoint.adapter is not None:
        return read_tensor(checkpoint, key).float()
    return as_stored(checkpoint.files, key, value).float()


def _own(checkpoint: Checkpoint, key: str) -> Derived | None:
    """How `key` is computed from the checkpoint's own files; None when it is stored as it is, or in the base."""
    derived = checkpoint.derived.get(key)
    return derived if derived is not None and derived.files is checkpoint.files else None
