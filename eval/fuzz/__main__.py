"""Feeds hostile inputs to projclean: each must end in a result or in a documented error, in bounded time and memory.

    python -m eval.fuzz --inputs 100000 [--seed 0] [--workers 1]

An input is a kind (`inputs.py`) and a number; the same seed gives the same inputs. Workers are forked and watched from
outside: one that dies counts as a crash, one that takes longer than the limit for an input is killed and counts as a
hang, and both go on with the next input. Memory is limited with setrlimit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eval.fuzz.inputs import KINDS
from eval.fuzz.many import CRASH, DOCUMENTED, HANG, MEMORY_LIMIT, OUTCOMES, SECONDS_LIMIT, Tally, campaign
from eval.fuzz.one import RESULT

RESULTS = Path(__file__).parents[1] / "results"


def report(tally: Tally, inputs: int, seed: int, kinds: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The figures, and a table of them."""
    documented = tally.total(DOCUMENTED)
    figures = {
        "command": " ".join(
            ["python -m eval.fuzz", f"--inputs {inputs} --seed {seed}", *(f"--kind {kind}" for kind in kinds)]
        ),
        "inputs": tally.total(OUTCOMES),
        "seed": seed,
        "results": tally.total([RESULT]),
        "documented_errors": documented,
        "crashes": tally.total([CRASH]),
        "hangs": tally.total([HANG]),
        "seconds_limit": SECONDS_LIMIT,
        "memory_limit_mb": MEMORY_LIMIT >> 20,
        "slowest_input_seconds": round(tally.slowest_seconds, 2),
        "peak_memory_growth_mb": round(tally.peak_growth_mb, 1),
        "models_written_and_compared": tally.written,
        "through_the_command_line": tally.by_command_line,
        "seconds": round(tally.seconds),
        "by_kind": {kind: dict(sorted(counter.items())) for kind, counter in tally.counts.items()},
        "failures": tally.failures[:50],
    }
    columns = [name for name in OUTCOMES if tally.total([name]) or name in (CRASH, HANG)]
    lines = [
        "# Hostile inputs",
        "",
        f"`{figures['command']}`: {figures['inputs']:,} inputs, {figures['results']:,} results,"
        f" {documented:,} documented errors, **{figures['crashes']} crashes, {figures['hangs']} hangs**.",
        "",
        f"The slowest input took {figures['slowest_input_seconds']} s of processor time (limit {SECONDS_LIMIT:g} s);"
        f" no input made a worker grow by more than {figures['peak_memory_growth_mb']:.0f} MB"
        f" (limit {MEMORY_LIMIT >> 20} MB).",
        f"{tally.by_command_line:,} inputs went through the command line (their errors are counted as ProjcleanError);"
        f" from {tally.written:,} a repaired model was written and compared with its source.",
        "",
        "| kind of input | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    lines += [
        f"| {kind} | " + " | ".join(str(counter[name]) for name in columns) + " |"
        for kind, counter in tally.counts.items()
    ]
    return figures, "\n".join(lines) + "\n"


@click.command()
@click.option("--inputs", default=100_000, show_default=True, help="How many inputs.")
@click.option("--seed", default=0, show_default=True, help="Seed of all of them.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), help="Only these kinds.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Where fuzz.json and fuzz.md go.")
def main(inputs: int, seed: int, workers: int, kinds: tuple[str, ...], results: Path) -> None:
    """Feed hostile inputs to projclean and count how they end."""
    console = Console(stderr=True)
    columns = (
        TextColumn("hostile inputs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("", total=inputs)
        tally = campaign(inputs, seed, workers, kinds or list(KINDS), lambda done: bars.update(task, completed=done))
    figures, table = report(tally, inputs, seed, kinds)
    results.mkdir(parents=True, exist_ok=True)
    (results / "fuzz.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (results / "fuzz.md").write_text(table, encoding="utf-8")
    click.echo(table)
    for failure in tally.failures[:10]:
        console.print(failure, markup=False, highlight=False)
    sys.exit(1 if figures["crashes"] or figures["hangs"] else 0)


if __name__ == "__main__":
    main()
