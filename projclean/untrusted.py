"""Reads files of a directory that nobody vouches for.

Regular files only (a FIFO would block, a device may do anything), never through a link that leaves the directory,
never more bytes than a cap, and never a file that changed since it was first looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from projclean.errors import CheckpointError

SKIP = frozenset({".git", ".cache", "__pycache__"})  # never read, never copied
DEPTH_LIMIT = 16
FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True)
class Stamp:
    """What the file system says of a file; any of it differs once the file was written to or replaced."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, file: BinaryIO | Path) -> Stamp:
        """The stamp of an open file, or of what a path leads to. Raises OSError."""
        found = file.stat() if isinstance(file, Path) else os.fstat(file.fileno())
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def is_file(path: Path) -> bool:
    """Whether there is a regular file; false, not an error, for a name that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises on names that are too long


def is_directory(path: Path) -> bool:
    """Whether there is a directory; false, not an error, for a name that no directory can have."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises on names that are too long


def contained(path: Path, root: Path) -> bool:
    """Whether a resolved path lies in `root`, or in the blobs of the hub cache that `root` is a snapshot of."""
    home = root.resolve()
    if path.is_relative_to(home):
        return True
    snapshots = next((parent for parent in home.parents if parent.name == "snapshots"), None)
    return snapshots is not None and path.parent == snapshots.parent / "blobs"


def open_regular(path: Path, root: Path | None) -> BinaryIO:
    """Open a regular file for reading; `root` is the directory that its links must not leave, None for any.

    Raises OSError, also for what is no regular file or leaves `root`.
    """
    try:
        real = path.resolve(strict=True)
    except (RuntimeError, ValueError) as error:  # a loop of links; a name that no file can have
        raise OSError(errno.EINVAL, "not a file name that can be followed") from error
    if root is not None and not contained(real, root):
        raise OSError(errno.EPERM, "a link that leaves the model directory")
    if not stat.S_ISREG(real.lstat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    handle = os.fdopen(os.open(real, FLAGS), "rb")
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise OSError(errno.EINVAL, "not a regular file")
    return handle


def read_bytes(path: Path, limit: int, root: Path | None = None) -> bytes:
    """A whole file of at most `limit` bytes. Raises OSError, also for a larger one."""
    with open_regular(path, root) as handle:
        data = handle.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit / (1 << 20):g} MiB")
    return data


def check_tree(root: Path) -> dict[str, Stamp]:
    """Every file of a directory, by its path relative to it, in name order.

    Refuses links that leave the directory, linked directories, devices, FIFOs and too many levels with
    CheckpointError. What lies in `SKIP` is not looked at, because nothing here reads or copies it.
    """
    found: dict[str, Stamp] = {}
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            entries = sorted(path for path in folder.iterdir() if path.name not in SKIP)
            for path in entries:
                if path.is_symlink():
                    _check_link(path, root)
                if path.is_dir():
                    if depth == DEPTH_LIMIT:
                        raise CheckpointError(f"{path}: more than {DEPTH_LIMIT} levels deep; remove it")
                    waiting.append((path, depth + 1))
                elif path.is_file():
                    found[path.relative_to(root).as_posix()] = Stamp.of(path)
                else:
                    raise CheckpointError(f"{path}: neither a file nor a directory; remove it")
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be read ({error.strerror}); make it readable") from error
    return dict(sorted(found.items()))


def _check_link(path: Path, root: Path) -> None:
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: a link that leads nowhere; remove it") from error
    if not contained(real, root):
        raise CheckpointError(
            f"{path}: a link that leaves the model directory; do not trust this model, "
            "or put the file in place of the link if the link is yours"
        )
    if real.is_dir():
        raise CheckpointError(f"{path}: a link to a directory; put the directory in its place")
    if not real.exists():
        raise CheckpointError(f"{path}: a link that leads nowhere; download the model again")
