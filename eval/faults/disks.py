"""Disks that are full, places that cannot be written to, writing that fails."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from unittest import mock

from eval.faults import calls
from eval.faults.scene import ABSENT, COMPLETE, MIDDLE, OLD, SMALL, Scene, Tick, Torn, fork, make_scene, prepare
from projclean.errors import ProjcleanError

NOBODY = 65534


def failing_calls(folder: Path, stride: int, tick: Tick) -> Counter[str]:
    """No space left (ENOSPC) or an input/output error (EIO) from every writing call of a run in turn."""
    scene = make_scene(folder, SMALL)
    found: Counter[str] = Counter()
    for with_old in (False, True):
        prepare(scene, with_old)
        total = calls.run(lambda: scene.repair(force=True), None, lambda: None, calls.WRITING)
        for number in range(0, total, stride):
            old = prepare(scene, with_old)
            error = (errno.ENOSPC, errno.EIO)[number % 2]

            run = partial(calls.run, lambda: scene.repair(force=True), number, partial(_fail, error), calls.WRITING)
            _expect_all_or_nothing(scene, old, found, run)
            tick()
    return found


def _fail(error: int) -> None:
    raise OSError(error, os.strerror(error))


def file_size_limits(folder: Path, count: int, tick: Tick) -> Counter[str]:
    """A limit on the size of files (RLIMIT_FSIZE), from nothing to just enough."""
    scene = make_scene(folder, SMALL)
    largest = max(stamp.size for stamp in scene.source.stamps.values())
    found: Counter[str] = Counter()
    for number in range(count):
        old = prepare(scene, with_old=number % 2 == 1)
        limit = largest * number // (count - 1)
        _expect_all_or_nothing(scene, old, found, lambda limit=limit: _in_child(scene, lambda: _limit_files(limit)))  # type: ignore[misc]
        tick()
    return found


def full_disks(folder: Path, count: int, tick: Tick) -> Counter[str]:
    """A real file system (tmpfs) of any size from too small to large enough. Needs root; {} where there is none."""
    found: Counter[str] = Counter()
    scene = make_scene(folder / "origin", MIDDLE)
    need = sum(stamp.size for stamp in scene.source.stamps.values())
    plenty = mock.Mock(free=1 << 50)  # as if somebody else filled the disk after it was asked
    for number in range(count):
        room = need * 5 * (number + 1) // (4 * count)
        with _mounted(folder / "disk", f"size={room}") as mounted:
            if not mounted:
                return Counter()
            there = Scene(folder / "disk", scene.source, scene.tensors, scene.source_hash, scene.complete_hash)
            with mock.patch("projclean.writer.shutil.disk_usage", return_value=plenty):
                _expect_all_or_nothing(there, None, found, lambda there=there: there.repair(force=False))  # type: ignore[misc]
            if list((folder / "disk").iterdir()) not in ([], [there.out]):
                raise Torn(f"left behind: {list((folder / 'disk').iterdir())}")
        tick()
    return found


def read_only_places(folder: Path, tick: Tick) -> Counter[str]:
    """An output in a directory without write permission (as nobody, where this is root) and on a read-only mount."""
    found: Counter[str] = Counter()
    scene = make_scene(folder / "origin", SMALL)
    closed = folder / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    there = Scene(closed, scene.source, scene.tensors, scene.source_hash, scene.complete_hash)
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/") and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    _expect_all_or_nothing(there, None, found, lambda: _in_child(there, _become_nobody))
    closed.chmod(0o755)
    tick()
    with _mounted(folder / "disk", "ro") as mounted:
        if mounted:
            there = Scene(folder / "disk", scene.source, scene.tensors, scene.source_hash, scene.complete_hash)
            _expect_all_or_nothing(there, None, found, lambda: there.repair(force=False))
    if found[COMPLETE]:
        raise Torn("an output appeared where nothing can be written")
    tick()
    return found


def _expect_all_or_nothing(scene: Scene, old: str | None, found: Counter[str], attempt: Callable[[], object]) -> None:
    """A complete output, or a documented error and the place as it was."""
    try:
        attempt()
        expected = [COMPLETE]
    except ProjcleanError:
        expected = [OLD if old else ABSENT]
    state = scene.state(old)
    if state not in expected:
        raise Torn(f"{state} where {' or '.join(expected)} was due")
    if scene.out.parent == scene.source.path.parent and scene.leftovers():
        raise Torn(f"left behind: {scene.leftovers()}")
    found[state] += 1


def _in_child(scene: Scene, before: Callable[[], None]) -> None:
    """A repair in a child that `before` has put under some limit; its documented error is raised here."""

    def work() -> None:
        before()
        scene.repair(force=True)

    code = os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1])
    if code == 3:
        raise ProjcleanError("in the child")
    if code != 0:
        raise Torn(f"the run ended with {code}")


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _become_nobody() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[bool]:
    """A fresh tmpfs; False where this process may not mount."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    try:
        yield done
    finally:
        if done:
            with suppress(OSError):
                subprocess.run(["umount", str(folder)], capture_output=True, check=False)
