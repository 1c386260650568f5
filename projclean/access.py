"""What the user allowed beyond reading safetensors from the disk. Nothing is allowed by default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    """`pickles`: unpickle tensors with torch's restricted loader. `download`: fetch hub ids that are not cached."""

    pickles: bool = False
    download: bool = False


NOTHING_MORE = Access()
