"""Seconds and peak memory of every way to repair, each in a process of its own, on one model of a tier.

    python -m eval.bench.repair_cost models/tiny badnet-refusal

Counts what the method itself does, with the suspect's answers to the calibration images where it needs them; loading
the model and its images is the same for all and told beside. Writes eval/results/TIER-repair-cost.{json,md}.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from eval import options
from eval.console import command_line, ends_in_one_line
from eval.defences import DEFENCES
from eval.measure import Settings, load_inputs, open_subject
from eval.suites import load_suite
from projclean.errors import OptionError

#: One row of each method at the settings that are compared elsewhere.
ROWS = (
    "undefended", "interpolation 0.5", "SVD removal k=4", "OrthoPurify, own answers", "Fine-Pruning, own answers",
    "CLP u=3", "clean fine-tuning, own answers", "relearning from the base, own answers", "projclean project rank 1",
    "projclean reflect rank 1", "projclean distill from 0.3", "projclean rank auto",
)  # fmt: skip


@click.command()
@options.suite
@click.argument("model", default="badnet-refusal")
@click.option("--row", hidden=True, help="Measure this row here and print it as JSON.")
@options.out
def cost(suite: Path, model: str, row: str | None, out: Path) -> None:
    """Measure what each way to repair MODEL costs."""
    with ends_in_one_line():
        if row is not None:
            click.echo(json.dumps(_measured(suite, model, row)))
            return
        command, found = [sys.executable, "-m", "eval.bench.repair_cost", str(suite), model, "--row"], {}
        for name in ROWS:
            click.echo(name, err=True)
            done = subprocess.run([*command, name], stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                sys.exit(done.returncode)
            found[name] = json.loads(done.stdout)
        stem = f"{load_suite(suite).tier}-repair-cost"
        text = _markdown(command_line("eval.bench.repair_cost"), model, found)
        (out / f"{stem}.json").write_text(
            json.dumps({"model": model, "rows": found}, indent=1) + "\n", encoding="utf-8"
        )
        (out / f"{stem}.md").write_text(text, encoding="utf-8")
        click.echo(text)


def _measured(suite: Path, name: str, row: str) -> dict[str, float]:
    loaded = load_suite(suite)
    model = next((model for model in loaded.models if model.name == name), None)
    if model is None:
        raise OptionError(f"{suite}: has no model {name}; lay the zoo out again")
    start = time.perf_counter()
    inputs = load_inputs(open_subject(model, loaded, Settings()))
    ready, before = time.perf_counter(), _peak()
    next(defence for defence in DEFENCES if defence.name == row).make(inputs)
    return {"loading": ready - start, "seconds": time.perf_counter() - ready, "loaded_mb": before, "peak_mb": _peak()}


def _peak() -> float:
    """Peak resident memory of this process so far, in MB."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _markdown(command: str, model: str, found: dict[str, dict[str, Any]]) -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    loading = min(row["loading"] for row in found.values())
    lines = [
        f"# What a repair of {model} costs",
        "",
        f"`{command}`, threads: {threads}. Each row in a process of its own; loading the model and the calibration "
        f"images took {loading:.0f} s and {min(row['loaded_mb'] for row in found.values()):.0f} MB before it. "
        "`rank auto` loads the model once more, probes it before and after, and writes the repaired directory.",
        "",
        "| method | seconds | peak memory, MB |",
        "| --- | --- | --- |",
        *(f"| {name} | {row['seconds']:.1f} | {row['peak_mb']:.0f} |" for name, row in found.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cost()
