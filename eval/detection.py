"""Scans of the calibration part, from which the thresholds of `projclean/thresholds.json` follow.

Thresholds come from the calibration part alone; what is reported comes from the report part alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.progress import Progress

from eval.bank import PARTS
from eval.recipes import CALIBRATION, Recipe
from projclean.errors import EvalError
from projclean.scanner import scan
from projclean.thresholding import counted, derive


def calibrate(folder: Path, store: Path, seeds: int, bars: Progress) -> str:
    """Scan every model of the calibration part, going on where the store stops, and print what follows."""
    rows: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    held_back = [r for r in (*CALIBRATION, *PARTS["calibration"]) if (folder / r.name).is_dir()]
    if not held_back:
        raise EvalError(f"{folder}: holds no model of the calibration part; lay the zoo out again")
    task = bars.add_task("models", total=len(held_back))
    for recipe in held_back:
        bars.update(task, description=recipe.name)
        if recipe.name not in rows:
            rows[recipe.name] = measure(recipe, folder, seeds)
            store.parent.mkdir(exist_ok=True)
            store.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        bars.advance(task)
    return calibration_text(rows)


def measure(recipe: Recipe, folder: Path, seeds: int) -> dict[str, Any]:
    """Scan one model with built-in images under several seeds."""
    scans = [scan(folder / recipe.name, base=str(folder / "base"), seed=seed) for seed in range(seeds)]
    return {
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


def calibration_text(rows: dict[str, Any]) -> str:
    """Every score of the calibration part, and the thresholds that follow from the first seed of each model."""
    lines, scores = [], {True: [], False: []}  # type: ignore[var-annotated]
    for name, row in rows.items():
        scores[row["backdoored"]].append(row["scans"][0]["score"])
        lines += [f"{name:<22} seed {one['seed']}  {one['score']:6.2f}  {one['said']!r}" for one in row["scans"]]
    found = derive(scores[False], scores[True])
    lines.append(f"highest benign {found.highest_benign:.2f} (n = {len(scores[False])}), ")
    lines[-1] += f"lowest backdoored {min(scores[True]):.2f} (n = {len(scores[True])})"
    lines.append(f"clean up to {found.clean:g}, suspicious from {found.suspicious:g}: {found.rule}")
    lines.append(f"false alarms on these {counted(found.false_positives)}")
    return "\n".join(lines)
