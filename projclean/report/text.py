"""The text report, for a terminal: rich on a colour terminal, plain in a pipe or under NO_COLOR."""

from __future__ import annotations

import os
import textwrap
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from projclean.evaluator import EvalResult
from projclean.probe import Probe
from projclean.repairer import RepairResult
from projclean.report import tables
from projclean.report.places import place
from projclean.report.tables import TURNS, Table
from projclean.scanner import ScanResult
from projclean.series import SeriesResult
from projclean.thresholds import Thresholds
from projclean.verdict import Verdict

COLORS = {"clean": "green", "suspicious": "red", "inconclusive": "yellow"}
STYLES = {"": "", "bad": "red", "chosen": "bold"}
NARROWEST = 20  # a column of long text thinner than this is unreadable: the rows are stacked instead


def render(result: Any, plain: bool = False, exit_code: int = 0) -> str:
    """A result as text, as wide as the terminal."""
    plain = plain or bool(os.environ.get("NO_COLOR"))
    console = Console(highlight=False, emoji=False)
    if plain:
        console = Console(no_color=True, force_terminal=False, highlight=False, emoji=False)
    with console.capture() as capture:
        if isinstance(result, ScanResult):
            _scan(console, result)
        elif isinstance(result, SeriesResult):
            _series(console, result)
        elif isinstance(result, RepairResult):
            _repair(console, result)
        elif isinstance(result, EvalResult):
            _eval(console, result)
        else:
            raise TypeError(f"no text report for {type(result).__name__}")
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").splitlines())


def _scan(console: Console, result: ScanResult) -> None:
    console.print(f"[bold]{escape(result.model)}[/bold]")
    if result.base is None:
        _verdict(console, result.verdict)
        return
    base = f"base {escape(place(result.base))} (named by {escape(result.base_named_by or '')})"
    console.print(f"{base}, projector {escape(result.family)}")
    _draw(console, tables.layers(result.layers))
    if result.probe is not None:
        prompt = escape(f"'{result.prompt}'")
        console.print(f"\nprobed with {escape(result.images or '')}, prompt {prompt}, seed {result.seed}")
        if result.guard:
            console.print(f"behind its guard: {escape(result.guard.described)}")
        _probe(console, result.probe, result.thresholds)
    _verdict(console, result.verdict)


def _series(console: Console, result: SeriesResult) -> None:
    first = result.steps[0].scan
    base = "no base" if result.base is None else f"base {place(result.base)} (named by {first.base_named_by})"
    console.print(f"[bold]{len(result.steps)} checkpoints[/bold], {escape(base)}, projector {escape(first.family)}")
    _draw(console, tables.checkpoints(result))
    if first.layers:
        console.print()
        _draw(console, tables.turns(result))
        console.print(escape(TURNS), style="dim")
    probed = tables.probed(result)
    if probed is not None:
        console.print(
            f"\nprobed with {escape(probed.images or '')}, prompt {escape(repr(probed.prompt))}, seed {probed.seed}"
        )
        console.print(f"thresholds: {escape(result.thresholds.describe())}", style="dim")
    _verdict(console, result.verdict)


def _probe(console: Console, probe: Probe, limits: Thresholds, most: int = 5) -> None:
    for question in probe.asked:
        console.print(f"asked '{escape(question)}' too, for classes that are taken for one another")
    console.print(f"left alone it says   '{escape(probe.normal_examples[0])}'")
    _draw(console, tables.utterances(probe, limits, most))
    console.print(f"inversion reached {probe.divergence:.1f} nats in {probe.forward_passes} batched runs")
    console.print(f"thresholds: {escape(limits.describe())}", style="dim")


def _verdict(console: Console, verdict: Verdict) -> None:
    color = COLORS[verdict.state]
    console.print(f"\n[bold {color}]{verdict.state.upper()}[/]  {escape(verdict.reason)}")
    for caveat in verdict.caveats:
        console.print(f"- {escape(caveat)}", style="dim")


def _repair(console: Console, result: RepairResult) -> None:
    console.print(f"[bold]{escape(result.model)}[/bold], base {escape(place(result.base))}")
    if result.trials:
        _draw(console, tables.trials(result))
    console.print(escape(result.reason))
    if result.guard:
        console.print(f"guard: {escape(result.guard.described)}")
    if result.scores:
        console.print()
        _scores(console, result)
    if result.after is not None:
        console.print(f"thresholds: {escape(result.thresholds.describe())}", style="dim")
    _verdict(console, result.verdict)
    if result.out is not None:
        console.print(f"written to [bold]{escape(result.out)}[/bold]")


def _eval(console: Console, result: EvalResult) -> None:
    console.print(f"evaluation {escape(result.evalset)}")
    _scores(console, result)


def _scores(console: Console, result: EvalResult | RepairResult) -> None:
    """Every interval where the terminal is wide enough; paired changes are left to the other formats."""
    full = tables.scores(result)
    _draw(console, full if _fits(console, full) else tables.scores(result, brief=True))
    console.print(escape(tables.sample(result)), style="dim")
    for warning in result.scores[0].warnings:
        console.print(f"warning: {escape(warning)}", style="yellow")


def _draw(console: Console, table: Table) -> None:
    """A table in columns where they fit, else a record a row."""
    if not _fits(console, table):
        _stack(console, table)
        return
    grid = Grid(box=None, pad_edge=False)
    for column in table.columns:
        grid.add_column(escape(column.title), overflow="fold", justify="left" if column.prose else "right")
    for row, mark in zip(table.rows, table.marks, strict=True):
        grid.add_row(*map(escape, row), style=STYLES[mark])
    console.print(grid)


def _fits(console: Console, table: Table) -> bool:
    """Whether there is room for columns, those of prose folded."""
    widths = [
        max([cell_len(column.title), *(cell_len(row[at]) for row in table.rows)])
        for at, column in enumerate(table.columns)
    ]
    prose = [width for width, column in zip(widths, table.columns, strict=True) if column.prose]
    spare = console.width - (sum(widths) - sum(prose)) - 2 * (len(widths) - 1)
    return sum(prose) <= spare or spare >= NARROWEST * len(prose)


def _stack(console: Console, table: Table) -> None:
    for row, mark in zip(table.rows, table.marks, strict=True):
        console.print(escape(row[0]), style=STYLES[mark])
        parts = [f"{column.title} {cell}" for column, cell in zip(table.columns[1:], row[1:], strict=True) if cell]
        for line in textwrap.wrap(" · ".join(parts), max(console.width - 2, 10), break_on_hyphens=False):
            console.print(f"  {escape(line)}", style=STYLES[mark])
