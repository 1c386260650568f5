"""Inputs that change while they are read."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from random import Random

from eval.faults import calls
from eval.faults.scene import SMALL, Tick, Torn, hash_tree, make_scene, remove, write_source
from projclean.errors import ProjcleanError


def changing_inputs(folder: Path, rng: Random, count: int, tick: Tick) -> Counter[str]:
    """The source is cut, rewritten, replaced, removed or linked away at a random system call of a scan or a repair.

    A scan must report the old or the new model or fail; a repair must write what was opened or nothing.
    """
    found: Counter[str] = Counter()
    secret = folder / "secret"
    secret.write_text("secret")
    write_source(folder / "new", SMALL, seed=1)
    write_source(folder / "base", SMALL, seed=2)
    whole = [_digest(folder / "new", folder / "base")]
    for number in range(count):
        place = folder / "place"
        scene = make_scene(place, SMALL)
        repairing = number % 2 == 1
        if number == 0:
            whole.append(_digest(scene.source.path, folder / "base"))
            totals = [
                calls.run(lambda: _digest(scene.source.path, folder / "base"), None, lambda: None),  # noqa: B023
                calls.run(lambda: scene.repair(force=False), None, lambda: None),  # noqa: B023
            ]
            remove(scene.out)
        change = rng.choice(CHANGES)
        act = lambda change=change, scene=scene: change(scene.source.path, folder, rng)  # type: ignore[misc]  # noqa: E731
        at = rng.randrange(totals[repairing])
        try:
            if repairing:
                calls.run(lambda: scene.repair(force=False), at, act)  # noqa: B023
            else:
                digests: list[str] = []
                calls.run(lambda: digests.append(_digest(scene.source.path, folder / "base")), at, act)  # noqa: B023
                if digests[0] not in whole:
                    raise Torn(f"a scan saw half of {change.__name__}")
            found["finished"] += 1
        except ProjcleanError:
            found["refused"] += 1
        if scene.out.exists() and hash_tree(scene.out) != scene.complete_hash:
            raise Torn(f"{change.__name__} reached the output")
        if scene.leftovers():
            raise Torn(f"left behind: {scene.leftovers()}")
        remove(place)
        tick()
    return found


def _digest(suspect: Path, base: Path) -> str:
    from projclean.scanner import scan

    return scan(suspect, base=str(base), probe=False).sha256["suspect"]


def _cut(source: Path, folder: Path, rng: Random) -> None:
    """A weight file loses its end."""
    file = rng.choice(sorted(source.glob("*.safetensors")))
    os.truncate(file, rng.randrange(file.stat().st_size))


def _rewrite(source: Path, folder: Path, rng: Random) -> None:
    """Every weight file gets other values, in place, of the same size."""
    for file in source.glob("*.safetensors"):
        file.write_bytes((folder / "new" / file.name).read_bytes())


def _replace(source: Path, folder: Path, rng: Random) -> None:
    """Every weight file is replaced by another of the same name and size."""
    for file in source.glob("*.safetensors"):
        shutil.copy(folder / "new" / file.name, folder / "moving")
        os.replace(folder / "moving", file)


def _remove_one(source: Path, folder: Path, rng: Random) -> None:
    """A file vanishes."""
    rng.choice(sorted(path for path in source.iterdir() if path.is_file())).unlink()


def _remove_all(source: Path, folder: Path, rng: Random) -> None:
    """The whole model vanishes."""
    shutil.rmtree(source)


def _link_away(source: Path, folder: Path, rng: Random) -> None:
    """A file becomes a link to one outside."""
    file = rng.choice(sorted(path for path in source.iterdir() if path.is_file()))
    file.unlink()
    file.symlink_to(folder / "secret")


def _block(source: Path, folder: Path, rng: Random) -> None:
    """A file becomes a FIFO."""
    file = rng.choice(sorted(path for path in source.iterdir() if path.is_file()))
    file.unlink()
    os.mkfifo(file)


CHANGES = (_cut, _rewrite, _replace, _remove_one, _remove_all, _link_away, _block)
