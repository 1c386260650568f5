"""Kills, starves and disturbs repairs: the output must be complete or absent (or the old one), the input untouched.

    python -m eval.faults [--seed 0] [--kills 250] [--stride 3]

SIGKILL at random times and before every `stride`-th system call of a run; writing calls that fail; full disks;
read-only places; inputs that change, vanish or become links under a scan or a repair; several runs at one output.
The first broken promise ends the suite with an error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eval.faults import changes, disks, kills
from eval.faults.scene import Tick, Torn

RESULTS = Path(__file__).parents[1] / "results"

Trial = Callable[[Path, Tick], Counter[str]]


def suite(seed: int, count: int, stride: int) -> dict[str, Trial]:
    """Every fault by its description."""
    return {
        "kill -9 after a random time": lambda f, t: kills.kills_at_random(f, Random(seed), count, t),
        f"kill -9 before every {stride}. system call": lambda f, t: kills.kills_at_every_call(f, stride, t),
        "writing calls that fail (ENOSPC, EIO)": lambda f, t: disks.failing_calls(f, 1, t),
        "limit on file sizes (RLIMIT_FSIZE)": lambda f, t: disks.file_size_limits(f, 60, t),
        "full disk (tmpfs)": lambda f, t: disks.full_disks(f, 60, t),
        "read-only directory, read-only mount": lambda f, t: disks.read_only_places(f, t),
        "input changes, vanishes, becomes a link": lambda f, t: changes.changing_inputs(f, Random(seed), 500, t),
        "two to four runs at one output": lambda f, t: kills.runs_at_once(f, 60, t),
    }


@click.command()
@click.option("--seed", default=0, show_default=True, help="Seed of times and places.")
@click.option("--kills", "count", default=250, show_default=True, help="Kills after a random time.")
@click.option("--stride", default=3, show_default=True, help="Kill before every n-th system call.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Where faults.json and faults.md go.")
def main(seed: int, count: int, stride: int, results: Path) -> None:
    """Disturb repairs in every way that is known and check what is left."""
    import torch

    torch.set_num_threads(1)
    console = Console(stderr=True)
    start, figures, broken = time.monotonic(), {}, None
    columns = (TextColumn("{task.description:<42}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        for name, trial in suite(seed, count, stride).items():
            task = bars.add_task(name, total=None)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = trial(Path(folder), lambda task=task: bars.advance(task))  # type: ignore[misc]
                except Torn as error:
                    broken = f"{name}: {error}"
                    break
            figures[name] = dict(sorted(found.items()))
            bars.update(task, total=bars.tasks[task].completed)
    document = {
        "command": f"python -m eval.faults --seed {seed} --kills {count} --stride {stride}",
        "seed": seed,
        "root": os.getuid() == 0,
        "kills": sum(found.get("kills", 0) for found in figures.values()),
        "broken_promises": [broken] if broken else [],
        "seconds": round(time.monotonic() - start),
        "trials": figures,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "faults.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (results / "faults.md").write_text(table(document, figures), encoding="utf-8")
    click.echo(table(document, figures))
    if broken:
        console.print(broken, markup=False)
    sys.exit(1 if broken else 0)


def table(document: dict[str, object], figures: dict[str, dict[str, int]]) -> str:
    """The figures for people."""
    broken = document["broken_promises"]
    lines = [
        "# Faults",
        "",
        f"`{document['command']}`: {document['kills']} kills and the other faults below; half-written outputs, changed"
        f" inputs, runs hindered by what a killed one left: **{broken or 0}**.",
        "",
        "| fault | how the output was left |",
        "|---|---|",
    ]
    for name, found in figures.items():
        cells = ", ".join(f"{what} {count}" for what, count in found.items()) or "not run: this process may not mount"
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
