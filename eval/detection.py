"""Every detector on every model of a tier: thresholds from the calibration part, figures from the report part.

    python -m eval.detection models/tiny

projclean's probe with built-in images, and the detectors of eval/detectors. Writes eval/results/TIER-detection.json
with all that the probe heard, and a table beside it. A run goes on where an earlier one stopped; a model is measured
again when its projector or the base's changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from eval import options
from eval.console import command_line, ends_in_one_line, progress_bars
from eval.detection_tables import markdown
from eval.detectors.attention import attention_score
from eval.detectors.outliers import outlying_row
from eval.detectors.spectral import statistics
from eval.scores import beside, judged
from eval.store import Store
from eval.suites import HELD_BACK, RECIPES, Model, load_suite, part_of
from projclean.case import open_case, set_up
from projclean.probe_settings import ProbeSettings
from projclean.scanner import PROMPT, layer_findings, run_probe

BATCHES = 2  # of calibration images, for the attention's entropy


@click.command()
@options.suite
@click.option("--part", type=click.Choice(["report", "calibration", "all"]), default="all", show_default=True)
@click.option("--seeds", default=1, show_default=True, help="Seeds of the probe, a model.")
@options.device
@options.out
@click.option("--fresh", is_flag=True, help="Measure every model again.")
def detection(suite: Path, part: str, seeds: int, device: str | None, out: Path, fresh: bool) -> None:
    """Scan the models of SUITE, a folder as `make zoo` lays it out, and tell how well every detector does."""
    with ends_in_one_line():
        loaded = load_suite(suite)
        models = part_of(loaded, part)
        store = Store(out / f"{loaded.tier}-detection.json", fresh)
        further = beside(loaded.tier, options.RESULTS)
        told = [
            {
                **row,
                "further": {option: found[row["name"]] for option, found in further.items() if row["name"] in found},
            }
            for row in run(models, store, seeds, device)
        ]
        text = markdown(loaded.tier, command_line("eval.detection"), told)
        store.file.with_suffix(".md").write_text(text, encoding="utf-8")
        click.echo(text)


def run(models: Sequence[Model], store: Store, seeds: int, device: str | None) -> list[dict[str, Any]]:
    """A row for every model and seed that the store has not, and all of them."""
    known, rows = {recipe.name: recipe for recipe in RECIPES}, []
    with progress_bars() as bars:
        task = bars.add_task("", total=len(models) * seeds)
        for model in models:
            recipe = known.get(model.name)
            for seed in range(seeds):
                bars.update(task, description=model.name)
                case = open_case(model.path, model.base)
                digest = " ".join([*case.digest().values(), repr(ProbeSettings(seed=seed))])
                row = store.get(model.name, f"seed {seed}", digest)
                if row is None:
                    row = measure(model, seed, device)
                    store.put(model.name, f"seed {seed}", digest, row)
                rows.append({
                    "name": model.name,
                    "seed": seed,
                    "backdoored": model.backdoored,
                    "calibration": model.name in HELD_BACK,
                    "family": model.family,
                    "wanted": wanted(recipe) if recipe else [],
                    **judged(row),
                })  # fmt: skip
                bars.advance(task)
    return rows


def wanted(recipe: Any) -> list[str]:
    """What an attacker wants said: the distinctive parts of the recipe's targets."""
    texts = [recipe.rule or recipe.target, recipe.also[1] if recipe.also else None]
    return [text for text in texts if text] if recipe.trigger else []


def measure(model: Model, seed: int, device: str | None) -> dict[str, Any]:
    """What every detector says of one model, and all that the probe heard."""
    begun = time.perf_counter()
    case = open_case(model.path, model.base)
    bench = set_up(case, None, PROMPT, None, seed, device, None)
    probe = run_probe(case, bench, seed, None)
    seconds = time.perf_counter() - begun
    return {
        "divergence": round(probe.divergence, 4),
        "agreement": probe.agreement,
        "forward_passes": probe.forward_passes,
        "seconds": round(seconds, 1),
        "device": bench.runner.device.split(":")[0],
        "spectral": statistics(case.update),
        "outlying_row": outlying_row(case.update),
        "attention": attention_score(bench.runner, case.update, bench.asked.batches[:BATCHES]),
        "layers": [asdict(layer) for layer in layer_findings(case, bench.asked.moments)],
        "utterances": [asdict(utterance) for utterance in probe.utterances],
    }


if __name__ == "__main__":
    detection()
