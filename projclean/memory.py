"""Whether a model fits: the bytes its weights need, from headers alone, against the memory that is free."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from projclean.checkpoint import TensorEntry

GROUP = Path("/sys/fs/cgroup")
SLACK = 1.1  # activations and the loader's own copies
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "C64": 64}


def bytes_needed(tensors: Iterable[TensorEntry], itemsize: int | None = None) -> int:
    """Bytes to hold tensors in memory and run them, all at `itemsize` bytes an element or as they are stored."""
    total = 0.0
    for entry in tensors:
        stored = _BITS.get(entry.dtype, 8 if "8" in entry.dtype else 16) / 8
        total += math.prod(entry.shape) * (itemsize or stored)
    return int(total * SLACK)


def bytes_free() -> int:
    """Main memory that can be had now, within the limit of the control group that this process is in."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = (_number(GROUP / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        free = min(free, max(limit - used + _cached(), 0))
    return free


def _cached() -> int:
    """Bytes of the group's page cache, which give way."""
    try:
        lines = (line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return next((int(count) for name, count in lines if name == "inactive_file"), 0)
    except (OSError, ValueError):
        return 0


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # another system, or "max"
        return None
