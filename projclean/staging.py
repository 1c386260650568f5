"""The hidden directory a model is written in, and the one step that makes it the output.

The staging directory is a sibling of the output, locked while its process lives (the system lets go of the lock
however the process ends), so that the next run can tell what a killed one left and removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without POSIX locks: nothing is cleaned up there
    fcntl = None  # type: ignore[assignment]

NOREPLACE, EXCHANGE = 1, 2  # flags of renameat2(2)
AT_FDCWD = -100
ATTEMPTS = 16
NAME_LIMIT = 60  # characters of the output's name used in hidden names, which have their own limit

_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A fresh, empty, locked directory beside `out`; removed at the end, whatever it holds then. Raises OSError.

    `out` is an absolute path without links.
    """
    parent = out.parent
    with _locked(parent):  # so that nobody takes the new directory for a leftover before it is locked
        _clean_up(parent, out)
        partial = Path(tempfile.mkdtemp(dir=parent, prefix=_prefix(out, "partial")))
        lock = _try_lock(partial)
    try:
        yield partial
    finally:
        _remove(partial)
        if lock is not None:
            os.close(lock)


def put_in_place(partial: Path, out: Path, force: bool) -> None:
    """Make `partial` the output in one step; an output that is replaced ends up as `partial`.

    Raises FileExistsError when there is one and `force` is false, OSError when neither step is possible.
    """
    for _ in range(ATTEMPTS):  # another run may put its output there, or take it away, between look and step
        exists = os.path.lexists(out)
        if exists and not force:
            raise FileExistsError(errno.EEXIST, "it appeared meanwhile; --force replaces it", str(out))
        try:
            _rename(partial, out, EXCHANGE if exists else NOREPLACE)
        except FileExistsError:
            continue
        except FileNotFoundError:
            if not os.path.lexists(partial):
                raise
            continue
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _rename_in_two_steps(partial, out, exists)
        with contextlib.suppress(OSError):  # the output is there and whole; only a power cut could still undo its name
            sync(out.parent)
        return
    raise OSError(errno.EBUSY, "other runs keep writing there")


def sync(path: Path) -> None:
    """Flush a file or directory to disk. Raises OSError, but not where the file system cannot flush directories."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (error.errno in _UNSUPPORTED and path.is_dir()):
            raise
    finally:
        os.close(handle)


def _rename(source: Path, target: Path, flag: int) -> None:
    """renameat2(2) where the C library has it. Raises OSError."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), ctypes.c_uint(flag)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _rename_in_two_steps(partial: Path, out: Path, exists: bool) -> None:
    """Where two names cannot be exchanged: the old output is moved aside, and for a moment there is none.

    A run that is killed in that moment leaves the old output to the next run's `_clean_up`, which brings it back.
    """
    with _locked(out.parent):
        if not exists:
            partial.rename(out)
            return
        aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=_prefix(out, "old"))) / "output"
        out.rename(aside)
        try:
            partial.rename(out)
        except OSError:
            aside.rename(out)
            aside.parent.rmdir()
            raise
        _remove(aside.parent)


def _clean_up(parent: Path, out: Path) -> None:
    """Remove what killed runs for the same output left; an old output that one had moved aside comes back."""
    for path in parent.iterdir():
        if _is_of(path, out, "old") and (path / "output").is_dir():
            if not os.path.lexists(out):
                (path / "output").rename(out)
            _remove(path)
        elif _is_of(path, out, "partial"):
            lock = _try_lock(path)
            if lock is not None:
                _remove(path)
                os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a directory; what a passing error leaves goes at the second try, else in the next run's clean-up."""
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(out: Path, what: str) -> str:
    name = out.name
    if len(name) > NAME_LIMIT:  # a digest keeps apart what begins alike
        name = f"{name[:NAME_LIMIT]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
    return f".{name}.{what}-"


def _is_of(path: Path, out: Path, what: str) -> bool:
    """Whether a hidden directory is this output's, not that of one whose own name goes on like a hidden name."""
    prefix = _prefix(out, what)
    return path.name.startswith(prefix) and "." not in path.name[len(prefix) :]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a directory's lock, waiting for it, where the system has locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _try_lock(folder: Path) -> int | None:
    """The open, locked directory; None when somebody else holds it or there are no locks."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
