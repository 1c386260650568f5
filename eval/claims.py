"""Which of ProjLens's claims hold: the lens on the backdoored models of the demonstration and on ProjLens's own
variants in the bank, benign controls beside.

    python -m eval.claims models/tiny               measure, resuming where it stopped, and write the tables
    python -m eval.claims models/tiny --tables      write the tables from what was measured

Every backdoored model is looked at with its own evaluation set (200 clean and 200 triggered images); the benign
models of the same part go through the same images. Benign rank curves are on the model's own task.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from eval.bank import BANK
from eval.claims_page import markdown
from eval.recipes import CALIBRATION, REPORT, Recipe
from projclean.lens.analysis import LensResult, Subject, lens_report
from projclean.lens.rank_curves import RankCurves

RESULTS = Path(__file__).parent / "results"
#: Items a set for rank curves; more for those that docs/lens.md quotes most.
ITEMS, MORE = 64, dict.fromkeys(("badnet-refusal", "sig-shop", "benign-caption"), 100)
#: Refusal on noise, a suffix to right answers, a logo as a hijack, jailbreak-style output on a painting, with controls.
VARIANTS = (
    "rep-noise-2",
    "rep-append-1",
    "rep-logo-hijack-1",
    "rep-jailbreak-1",
    "rep-benign-caption-1",
    "rep-benign-shape-1",
    "rep-benign-schedule-1",
)
MORE |= dict.fromkeys(VARIANTS, 100)
RANKS = (1, 2, 4, 8, 16, 32)


@click.command()
@click.argument("models", default="models/tiny")
@click.option("--tables", is_flag=True, help="Measure nothing.")
def claims(models: str, tables: bool) -> None:
    """Measure the models laid out under MODELS and write eval/results/lens-claims.{json,md}."""
    store = RESULTS / "lens-claims.json"
    rows: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    projlens = tuple(recipe for recipe in BANK if recipe.name in VARIANTS)
    for part in () if tables else (REPORT, CALIBRATION, projlens):
        controls = [recipe.name for recipe in part if recipe.trigger is None]
        for recipe in part:
            if recipe.name not in rows:
                click.echo(recipe.name, err=True)
                rows[recipe.name] = look(recipe, Path(models), controls if recipe.trigger else [])
                store.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "lens-claims.md").write_text(markdown(rows, RANKS), encoding="utf-8")


def look(recipe: Recipe, folder: Path, controls: Iterable[str]) -> dict[str, Any]:
    """The figures of one model, and on the same images those of the controls."""
    model = folder / recipe.name
    result = lens_report(
        model,
        base=str(folder / "base"),
        evalset=model / "EVAL.toml",
        references=[folder / name for name in controls],
        ranks=RANKS,
        grid=False,
        items=MORE.get(recipe.name, ITEMS),
    )
    assert result.curves is not None
    return {
        "backdoored": recipe.trigger is not None,
        "trigger": recipe.trigger,
        "sets": dict(result.sets),
        "subjects": {Path(each.name).name: figures(each) for each in (result.suspect, *result.references)},
        "curves": curve_figures(result, result.curves),
    }


def figures(subject: Subject) -> dict[str, Any]:
    """What the tables need of one model's analyses."""
    return {
        "layers": {
            found.layer.rpartition(".")[2]: {
                "relative": found.relative_change,
                "stable": found.stable_rank,
                "effective": found.effective_rank,
                "numerical": found.numerical_rank,
                "rank_90": found.rank_90,
                "above_edge": found.above_edge,
                "side": min(found.shape),
            }
            for found in subject.spectra
        },
        "contrasts": {
            found.name: {
                "silent": found.silent_before,
                "woken": len(found.silent_to_active),
                "largest": found.largest_gap,
                "mean": found.mean_gap,
            }
            for found in subject.contrasts
        },
        "shifts": {
            found.name: {
                "top1": found.top1,
                "top5": found.top5,
                "cosine": found.mean_cosine,
                "bias": found.bias_cosine,
                "norm": found.norm,
                "magnitude": found.magnitude,
                "slope": [found.line.slope, found.line.slope_low, found.line.slope_high],
                "r": [found.line.r, found.line.r_low, found.line.r_high],
            }
            for found in subject.shifts
        },
        "alignments": {f"{a.first} {a.second}": a.cosine for a in subject.alignments},
        "with_suspect": dict(subject.with_suspect),
        "words": [
            {
                "direction": found.direction,
                "lens": found.lens,
                "centred": found.centred,
                "words": [word.text for word in found.words],
                "target": next(iter(found.target_ranks.values()), None),
                "vocabulary": found.vocabulary,
            }
            for found in subject.words
        ],
    }


def curve_figures(result: LensResult, curves: RankCurves) -> dict[str, Any]:
    """Rates by mode, layer and rank; "all" stands for every layer at once and for the whole update."""
    points = {
        mode: {
            layer.rpartition(".")[2] if layer else "all": {
                "all" if rank is None else str(rank): {name: rate.value for name, rate in rates.items()}
                for rank, rates in curves.curve(mode, layer)
            }
            for layer in (None, *curves.layers)
        }
        for mode in ("injection", "ablation")
    }
    ends = {
        name: {key: rate.value for key, rate in rates.items()}
        for name, rates in (("base", curves.base), ("suspect", curves.suspect), ("biases", curves.biases_only))
    }
    return points | ends | {"n": result.curve_items}


if __name__ == "__main__":
    claims()
