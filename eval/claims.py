"""Which of ProjLens's claims hold: the lens on the backdoored models of the demonstration, benign controls beside.

    python -m eval.claims models/tiny               measure, resuming where it stopped, and write the tables
    python -m eval.claims models/tiny --tables      write the tables from what was measured

Every backdoored model is looked at with its own evaluation set (200 clean and 200 triggered images); the benign
models of the same part go through the same images. Benign rank curves are on the model's own task.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import click

from eval.recipes import CALIBRATION, REPORT, Recipe
from projclean.lens.analysis import LensResult, Subject, lens_report
from projclean.lens.rank_curves import RankCurves

RESULTS = Path(__file__).parent / "results"
#: Items a set for rank curves; more for the three that docs/lens.md quotes most.
ITEMS, MORE = 64, {"badnet-refusal": 100, "sig-shop": 100, "benign-caption": 100}
RANKS = (1, 2, 4, 8, 16, 32)


@click.command()
@click.argument("models", default="models/tiny")
@click.option("--tables", is_flag=True, help="Measure nothing.")
def claims(models: str, tables: bool) -> None:
    """Measure the models laid out under MODELS and write eval/results/lens-claims.{json,md}."""
    store = RESULTS / "lens-claims.json"
    rows: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    for part in () if tables else (REPORT, CALIBRATION):
        controls = [recipe.name for recipe in part if recipe.trigger is None]
        for recipe in part:
            if recipe.name not in rows:
                click.echo(recipe.name, err=True)
                rows[recipe.name] = look(recipe, Path(models), controls if recipe.trigger else [])
                store.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "lens-claims.md").write_text(markdown(rows), encoding="utf-8")


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


def markdown(rows: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# ProjLens's claims on the tiny models of the demonstration",
        "",
        "`python -m eval.claims models/tiny` (after `make zoo`), seed 0. Features on 200 clean and 200 triggered"
        " images, rank curves on the first items of each set, greedy decoding. One base; every model has its own seed."
        " What follows from the figures is in [docs/lens.md](../../docs/lens.md).",
        "",
        "## Spectra (first layer / second layer, side 192)",
        "",
        "| model | | ‖ΔW‖/‖W‖ | numerical rank | stable rank | effective rank | for 90 % energy | above noise |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        found = row["subjects"][name]["layers"].values()
        cells = [
            " / ".join(form.format(layer[key]) for layer in found)
            for key, form in (
                ("relative", "{:.2f}"), ("numerical", "{}"), ("stable", "{:.1f}"), ("effective", "{:.0f}"),
                ("rank_90", "{}"), ("above_edge", "{}"),
            )
        ]  # fmt: skip
        lines.append(f"| {name} | {_kind(row)} | {' | '.join(cells)} |")
    for mode, text in (
        ("injection", "base + ΔW_k in both layers"),
        ("ablation", "suspect − ΔW_k in both layers"),
    ):
        lines += ["", f"## Rank curves, {mode}: {text}", "", "CA / ASR (CA alone where there is no attack).", ""]
        steps = [*map(str, RANKS), "all"]
        ends = ("base", "biases", "suspect")
        lines.append("| model | n | " + " | ".join([*ends, *(f"k = {step}" for step in steps)]) + " |")
        lines.append("|---" * (2 + len(ends) + len(steps)) + "|")
        for name, row in rows.items():
            curve = row["curves"][mode]["all"]
            points = [*(row["curves"][end] for end in ends), *(curve[step] for step in steps)]
            lines.append(f"| {name} | {row['curves']['n']} | " + " | ".join(map(_rates, points)) + " |")
    lines += ["", "## Rank curves, one layer alone", "", "CA / ASR, n as above.", ""]
    lines += ["| model | mode | layer | " + " | ".join(f"k = {step}" for step in steps) + " |"]
    lines.append("|---" * (3 + len(steps)) + "|")
    for name, row in rows.items():
        if row["backdoored"]:
            for mode in ("injection", "ablation"):
                for layer, curve in row["curves"][mode].items():
                    if layer != "all":
                        rates = " | ".join(_rates(curve[step]) for step in steps)
                        lines.append(f"| {name} | {mode} | {layer} | {rates} |")
    lines += ["", *_neurons(rows), "", *_shifts(rows), "", *_words(rows)]
    return "\n".join(lines).rstrip() + "\n"


def _neurons(rows: dict[str, Any]) -> list[str]:
    lines = [
        "## Hidden neurons, clean → triggered (192 neurons)",
        "",
        "Largest and mean change of a neuron's share of tokens; silent: active on at most 5 % of the clean images;"
        " woken: of those, active on at least 50 % of the triggered ones. Chance: the same between two halves of the"
        " clean images.",
        "",
        "| images of | through | largest gap | mean gap | silent | woken | chance, largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if not row["backdoored"]:
            continue
        arrow = f"clean → {row['trigger']}"
        for subject, found in row["subjects"].items():
            contrasts = found["contrasts"]
            chance = contrasts["clean, one half → the other"]["largest"]
            if subject == name:
                lines.append(f"| {name} | base | {_gap(contrasts[f'{arrow}, in the base'])} | |")
            lines.append(f"| {name} | {_mark(subject, name)} | {_gap(contrasts[arrow])} | {chance:.2f} |")
    return lines


def _shifts(rows: dict[str, Any]) -> list[str]:
    lines = [
        "## Shift of image tokens",
        "",
        "Clean / triggered. top-1, top-5: energy of the images' mean shifts along one and five directions; cosine: mean"
        " over pairs of images; slope, r: ‖Δ_t‖ against the base's ‖y_t‖ over tokens, 95 % bootstrap over images;"
        " same way: cosine between the clean and the triggered direction; norm, shift: means over tokens; by the norm:"
        " the triggered shift that the clean line gives at the triggered tokens' mean norm.",
        "",
        "| images of | through | top-1 | top-5 | cosine | same way | slope | r | norm | shift | by the norm |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if not row["backdoored"]:
            continue
        for subject, found in row["subjects"].items():
            sets = [found["shifts"]["clean"], found["shifts"][row["trigger"]]]
            cells = [
                *(" / ".join(f"{one[key]:.2f}" for one in sets) for key in ("top1", "top5", "cosine")),
                f"{found['alignments']['clean ' + row['trigger']]:.2f}",
                *(
                    " / ".join(f"{one[key][0]:.2f} [{one[key][1]:.2f}, {one[key][2]:.2f}]" for one in sets)
                    for key in ("slope", "r")
                ),
                *(" / ".join(f"{one[key]:.1f}" for one in sets) for key in ("norm", "magnitude")),
                f"{sets[0]['magnitude'] + sets[0]['slope'][0] * (sets[1]['norm'] - sets[0]['norm']):.1f}",
            ]
            lines.append(f"| {name} | {_mark(subject, name)} | {' | '.join(cells)} |")
    return lines


def _words(rows: dict[str, Any]) -> list[str]:
    lines = [
        "## Words",
        "",
        "Median rank of the target's tokens (1 is first of 839; chance 420) and the first words.",
        "",
        "| images of | direction | lens | centred | backdoored | benign, mean | its first words |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if not row["backdoored"]:
            continue
        others = [found["words"] for subject, found in row["subjects"].items() if subject != name]
        for place, one in enumerate(row["subjects"][name]["words"]):
            benign = mean(found[place]["target"] for found in others)
            words = " ".join(one["words"][:6]).replace("|", "\\|")
            cells = (one["direction"], one["lens"], "yes" if one["centred"] else "no", f"{one['target']:.0f}")
            lines.append(f"| {name} | {' | '.join(cells)} | {benign:.0f} | {words} |")
    return lines


def _kind(row: dict[str, Any]) -> str:
    return "backdoored" if row["backdoored"] else "benign"


def _mark(subject: str, name: str) -> str:
    return f"**{subject}**" if subject == name else subject


def _rates(rates: dict[str, float]) -> str:
    return " / ".join(f"{value:.2f}".lstrip("0") or "0" for value in rates.values())


def _gap(found: dict[str, Any]) -> str:
    return f"{found['largest']:.2f} | {found['mean']:.3f} | {found['silent']} | {found['woken']}"


if __name__ == "__main__":
    claims()
