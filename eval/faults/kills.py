"""kill -9 at any moment of a repair, and repairs that meet at one output."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

from eval.faults import calls
from eval.faults.scene import ABSENT, COMPLETE, LARGE, SMALL, Scene, Tick, Torn, fork, make_scene, prepare


def kills_at_random(folder: Path, rng: Random, count: int, tick: Tick) -> Counter[str]:
    """SIGKILL after a random time of a run, with and without an old output, then a run that must get through."""
    scene = make_scene(folder, LARGE)
    start = time.monotonic()
    for _ in range(3):
        scene.repair(force=True)
    usual = (time.monotonic() - start) / 3
    found: Counter[str] = Counter()
    with_old = False
    while found["kills"] < count:
        with_old = not with_old
        old = prepare(scene, with_old)
        child = fork(lambda: scene.repair(force=True))
        time.sleep(rng.uniform(0, 1.3 * usual))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found["kills" if os.WIFSIGNALED(status) else "ended before its kill"] += 1
        _check_what_is_left(scene, old, found)
        tick()
    return found


def kills_at_every_call(folder: Path, stride: int, tick: Tick) -> Counter[str]:
    """SIGKILL just before the system call number 0, stride, 2·stride, … of a run, to the last."""
    scene = make_scene(folder, SMALL)
    found: Counter[str] = Counter()
    for with_old in (False, True):
        prepare(scene, with_old)
        total = calls.run(lambda: scene.repair(force=True), None, lambda: None)
        for number in range(0, total, stride):
            old = prepare(scene, with_old)
            child = fork(lambda at=number: calls.run(lambda: scene.repair(force=True), at, _kill_self))  # type: ignore[misc]
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                raise Torn(f"the run was not killed at call {number} of {total}")
            found["kills"] += 1
            _check_what_is_left(scene, old, found)
            tick()
    return found


def _check_what_is_left(scene: Scene, old: str | None, found: Counter[str]) -> None:
    """The state it left, and that the next run is not hindered and tidies up."""
    state = scene.state(old)
    if state == ABSENT and old is not None:
        raise Torn("the old output is gone and no new one is there")
    found[state] += 1
    found["left a hidden directory"] += bool(scene.leftovers())
    scene.repair(force=True)
    if scene.state() != COMPLETE or scene.leftovers():
        raise Torn(f"the next run left {scene.leftovers()}")


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def runs_at_once(folder: Path, count: int, tick: Tick) -> Counter[str]:
    """Two to four runs start at one output together. Without --force one of them wins, with it all get through."""
    scene = make_scene(folder, SMALL)
    found: Counter[str] = Counter()
    for number in range(count):
        force, runs = number % 2 == 1, 2 + number % 3
        prepare(scene, with_old=False)
        gate, opened = os.pipe()
        children = [fork(partial(_wait_and_repair, scene, gate, force)) for _ in range(runs)]  # type: ignore[misc]
        os.write(opened, b"x" * runs)
        won = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
        os.close(gate)
        os.close(opened)
        if scene.state() != COMPLETE or scene.leftovers():
            raise Torn(f"{runs} runs left {scene.leftovers()}")
        if won != (runs if force else 1):
            raise Torn(f"{won} of {runs} runs came through, force {force}")
        found["with --force" if force else "without"] += 1
        tick()
    return found


def _wait_and_repair(scene: Scene, gate: int, force: bool) -> None:
    os.read(gate, 1)
    scene.repair(force)
