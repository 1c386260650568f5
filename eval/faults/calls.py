"""Acts at the n-th system call that Python code makes, by watching calls into C functions with sys.setprofile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any

MODULES = {"posix", "_io", "io", "fcntl"}
WRITING = frozenset({"write", "fsync", "mkdir", "open", "rename", "chmod", "flush", "truncate"})


def run(function: Callable[[], object], at: int | None, act: Callable[[], None], only: Collection[str] = ()) -> int:
    """Run `function` and call `act` just before its system call number `at` (from 0; None for never).

    `only` counts the calls of these names alone. Returns how many there were. What `act` raises comes out of the
    call it stands in for.
    """
    count = 0

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event != "c_call" or not _is_system_call(argument) or (only and argument.__name__ not in only):
            return
        count += 1
        if count - 1 == at:
            sys.setprofile(None)
            act()

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def _is_system_call(function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None) or type(owner).__module__
    return module in MODULES
