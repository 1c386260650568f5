"""The page of ProjLens's claims, from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from projclean.intervals import few_items
from projclean.metrics import rate


def markdown(rows: dict[str, Any], ranks: Sequence[int]) -> str:
    """The tables."""
    lines = [
        "# ProjLens's claims on tiny models",
        "",
        "`python -m eval.claims models/tiny` (after `python -m eval.zoo build --bank --to models/tiny`), seed 0."
        " Features on 200 clean and 200 triggered images, rank curves on the first items of each set, greedy decoding."
        " One base; every model has its own seed."
        " What follows from the figures is in [docs/lens.md](../../docs/lens.md).",
        "",
        *_warnings(rows),
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
        steps = [*map(str, ranks), "all"]
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


def _warnings(rows: dict[str, Any]) -> list[str]:
    """How far a rate of so few items may be off."""
    sizes = sorted({row["curves"]["n"] for row in rows.values()})
    halves = {n: rate([True] * (n // 2) + [False] * (n - n // 2)) for n in sizes}
    widths = ", ".join(f"±{(half.high - half.low) / 2:.2f} at n = {n}" for n, half in halves.items())
    few = few_items(sizes[0])
    told = f"A rate of one half on a rank curve has a 95 % Wilson interval of {widths}"
    return [f"**Warning:** {few}. {told}."] if few else []


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
