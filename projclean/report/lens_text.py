"""The lens report for a terminal: the figures that matter most; JSON and HTML have all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from projclean.lens.analysis import LensResult, Subject
from projclean.lens.rank_curves import RankCurves
from projclean.report.lens_names import items_of, last_part, rank_name, short_names

WORDS = 6


def render(result: LensResult, plain: bool = False) -> str:
    """The report as text, as wide as the terminal; `plain` has no colours, for files."""
    console = Console(no_color=True, force_terminal=False, highlight=False) if plain else Console(highlight=False)
    with console.capture() as capture:
        _print(console, result)
    return capture.get().rstrip("\n")


def _print(console: Console, result: LensResult) -> None:
    subjects, names = [result.suspect, *result.references], short_names(result)
    console.print(f"[bold]{escape(result.model)}[/bold]")
    console.print(f"base {escape(result.base)} (named by {result.base_named_by}), projector {result.family}")
    sets = ", ".join(f"{n} {escape(name)}" for name, n in list(result.sets.items())[1:])
    console.print(f"{escape(result.images)}{', ' + sets if sets else ''}, seed {result.seed}")
    if not result.references:
        console.print("no --reference: without a benign fine-tune beside it, most of this says little", style="yellow")
    _heading(console, "Spectra of the update")
    _table(
        console, names,
        ("layer", "‖ΔW‖/‖W‖", "stable", "effective", "90 %", "above noise"),
        [
            (each, (last_part(layer.layer), f"{layer.relative_change:.2f}", f"{layer.stable_rank:.1f}",
                    f"{layer.effective_rank:.0f}", str(layer.rank_90), str(layer.above_edge)))
            for each in subjects for layer in each.spectra
        ],
    )  # fmt: skip
    if result.curves is not None:
        _curves(console, result.curves)
    _heading(console, "Hidden neurons")
    if not result.suspect.contrasts:
        console.print("the projector is one matrix: it has no hidden layer")
    else:
        _table(
            console, names,
            ("before → after", "largest gap", "mean", "silent", "→ active"),
            [
                (each, (found.name, f"{found.largest_gap:.2f}", f"{found.mean_gap:.3f}", str(found.silent_before),
                        str(len(found.silent_to_active))))
                for each in subjects for found in each.contrasts
            ],
        )  # fmt: skip
    _heading(console, "Shift of image tokens")
    _table(
        console, names,
        ("images", "top-1", "top-5", "cosine", "norm", "shift", "slope", "r"),
        [
            (each, (s.name, f"{s.top1:.2f}", f"{s.top5:.2f}", f"{s.mean_cosine:.2f}", f"{s.norm:.1f}",
                    f"{s.magnitude:.1f}", f"{s.line.slope:.2f}", f"{s.line.r:.2f}"))
            for each in subjects for s in each.shifts
        ],
    )  # fmt: skip
    for each in subjects:
        for pair in each.alignments:
            sets = f"{pair.first} and {pair.second} are moved the same way with cosine {pair.cosine:.2f}"
            console.print(escape(f"{names[each.name]}: {sets}"))
    _heading(console, "Words along the shift, centred")
    targets = list(result.suspect.words[0].target_ranks) if result.suspect.words else []
    _table(
        console,
        names,
        ("direction", "through", *(f"rank of {attack} target" for attack in targets), "first words"),
        [
            (each, (found.direction, found.lens, *(f"{found.target_ranks[attack]:.0f}" for attack in targets),
                    " ".join(word.text for word in found.words[:WORDS])))
            for each in subjects for found in each.words if found.centred
        ],
    )  # fmt: skip


def _curves(console: Console, curves: RankCurves) -> None:
    _heading(console, f"Rank curves, {items_of(curves.suspect)}")
    rates = list(curves.suspect)
    steps = ["base", *(f"{'k=' if rank else ''}{rank_name(rank)}" for rank, _ in curves.curve("injection", None))]
    for mode in ("injection", "ablation"):
        table = Table(box=None, pad_edge=False)
        table.add_column(mode)
        for step in [steps[0] if mode == "injection" else "none", *steps[1:]]:
            table.add_column(step, justify="right")
        for layer in (*(curves.layers if len(curves.layers) > 1 else ()), None):
            start = curves.base if mode == "injection" else curves.suspect
            points = [start, *(found for _, found in curves.curve(mode, layer))]
            for rate in rates:
                name = f"{rate}, {last_part(layer) if layer else 'all layers'}"
                table.add_row(escape(name), *(f"{found[rate].value:.2f}".removeprefix("0") for found in points))
        console.print(table)
    only = ", ".join(f"{escape(rate)} {found.value:.2f}" for rate, found in curves.biases_only.items())
    console.print(f"the base with the suspect's biases alone: {only}")


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold underline]{escape(text)}[/]")


def _table(
    console: Console, names: Mapping[str, str], head: Sequence[str], rows: Sequence[tuple[Subject, tuple[str, ...]]]
) -> None:
    """A table a model, under its name where there are several."""
    for name, short in names.items():
        if len(names) > 1:
            console.print(escape(short), style="bold")
        table = Table(box=None, pad_edge=False)
        for place, title in enumerate(head):
            left = place == 0 or title == "first words"
            table.add_column(title, justify="left" if left else "right", overflow="fold")
        for each, cells in rows:
            if each.name == name:
                table.add_row(*(escape(cell) for cell in cells))
        console.print(table)
