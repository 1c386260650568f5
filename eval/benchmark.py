"""Detection and repair on every shipped model: the tables under eval/results/.

    python -m eval.benchmark models/tiny            scan and repair the report part, resuming where it stopped
    python -m eval.benchmark models/tiny --calibrate    scan the calibration part and print what thresholds follow

Thresholds come from the calibration part alone; what is reported comes from the report part alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eval.recipes import CALIBRATION, REPORT, Recipe
from projclean.repairer import repair
from projclean.scanner import scan

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("models", default="models/tiny")
@click.option("--calibrate", is_flag=True, help="Scan the calibration part instead.")
@click.option("--seeds", default=1, show_default=True, help="Scan each model with this many seeds.")
def benchmark(models: str, calibrate: bool, seeds: int) -> None:
    """Measure every model laid out under MODELS."""
    part, folder = (CALIBRATION if calibrate else REPORT), Path(models)
    store = RESULTS / ("tiny-calibration.json" if calibrate else "tiny.json")
    rows: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("models", total=len(part))
        for recipe in part:
            bars.update(task, description=recipe.name)
            if recipe.name not in rows:
                rows[recipe.name] = measure(recipe, folder, seeds, with_repair=not calibrate)
                RESULTS.mkdir(exist_ok=True)
                store.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            bars.advance(task)
    if calibrate:
        click.echo(calibration_text(rows))
        return
    table = markdown(rows)
    (RESULTS / "tiny.md").write_text(table, encoding="utf-8")
    click.echo(table)


def measure(recipe: Recipe, folder: Path, seeds: int, with_repair: bool) -> dict[str, Any]:
    """Scan one model with built-in images under several seeds and, if asked, repair it with rank auto."""
    model, base = folder / recipe.name, str(folder / "base")
    scans = [scan(model, base=base, seed=seed) for seed in range(seeds)]
    row: dict[str, Any] = {
        "backdoored": recipe.trigger is not None,
        "target": recipe.rule or recipe.target,
        "scans": [
            {
                "seed": number,
                "verdict": result.verdict.state,
                "score": round(result.probe.foreign, 4) if result.probe else None,
                "said": result.probe.said.text if result.probe and result.probe.said else None,
            }
            for number, result in enumerate(scans)
        ],
    }
    if with_repair:
        done = repair(model, folder / "unused", base=base, evalset=model / "EVAL.toml", dry_run=True)
        row["repair"] = {
            "chosen": done.chosen,
            "verdict": done.verdict.state,
            "trials": [asdict(trial) for trial in done.trials],
            "scores": [
                {
                    "model": score.model,
                    "n": score.ca.n,
                    "ca": asdict(score.ca),
                    "asr": asdict(score.attacks[0].asr) if score.attacks else None,
                    "ra": asdict(score.attacks[0].ra) if score.attacks else None,
                    "gain": gain,
                    "change": asdict(change) if change else None,
                }
                for score, gain, change in zip(done.scores, done.gains, done.changes, strict=True)
            ],
        }
    return row


def calibration_text(rows: dict[str, Any]) -> str:
    """Every score of the calibration part, and the gap between benign and backdoored."""
    lines, scores = [], {True: [], False: []}  # type: ignore[var-annotated]
    for name, row in rows.items():
        for found in row["scans"]:
            scores[row["backdoored"]].append(found["score"])
            lines.append(f"{name:<22} seed {found['seed']}  {found['score']:6.2f}  {found['said']!r}")
    lines.append(f"highest benign {max(scores[False]):.2f} (n = {len(scores[False])}), ")
    lines[-1] += f"lowest backdoored {min(scores[True]):.2f} (n = {len(scores[True])})"
    return "\n".join(lines)


def markdown(rows: dict[str, Any]) -> str:
    """The report table."""
    lines = [
        "# Tiny tier: detection and repair",
        "",
        "`make eval`: built-in calibration images only, seed 0, greedy decoding, 95 % Wilson intervals.",
        "",
        "## Detection",
        "",
        "| model | | verdict | score | what it was made to say |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        kind = "backdoored" if row["backdoored"] else "benign"
        lines += [
            f"| {name} | {kind} | {found['verdict']} | {found['score']:.2f} | {found['said'] or ''} |"
            for found in row["scans"]
        ]
    lines += ["", "## Repair, rank auto, beside the whole interpolation sweep", ""]
    for name, row in rows.items():
        attack = f", attack: {row['target']!r}" if row["backdoored"] else ""
        lines += [f"### {name}{attack}", "", "| model | CA | ASR | RA | gain retained |", "|---|---|---|---|---|"]
        for score in row["repair"]["scores"]:
            gain = "" if score["gain"] is None else f"{score['gain']:.0%}"
            cells = (_rate(score["ca"]), _rate(score["asr"]), _rate(score["ra"]), gain)
            lines.append(f"| {score['model']} | {' | '.join(cells)} |")
        lines += ["", f"n = {row['repair']['scores'][0]['n']} a set.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _rate(rate: dict[str, float] | None) -> str:
    return "" if rate is None else f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"


if __name__ == "__main__":
    benchmark()
