"""The text report, for a terminal: rich on a colour terminal, plain in a pipe or under NO_COLOR."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from projclean.evaluation import Score
from projclean.evaluator import EvalResult
from projclean.metrics import Rate
from projclean.probe import Probe
from projclean.repairer import RepairResult
from projclean.scanner import ScanResult
from projclean.verdict import Verdict, thresholds

COLORS = {"clean": "green", "suspicious": "red", "inconclusive": "yellow"}


def render(result: Any, plain: bool = False) -> str:
    """A result as text, as wide as the terminal."""
    console = Console(highlight=False, emoji=False)
    if plain:
        console = Console(no_color=True, force_terminal=False, highlight=False, emoji=False)
    with console.capture() as capture:
        if isinstance(result, ScanResult):
            _scan(console, result)
        elif isinstance(result, RepairResult):
            _repair(console, result)
        elif isinstance(result, EvalResult):
            _eval(console, result)
        else:
            raise TypeError(f"no text report for {type(result).__name__}")
    return capture.get().rstrip("\n")


def _scan(console: Console, result: ScanResult) -> None:
    console.print(f"[bold]{escape(result.model)}[/bold]")
    if result.base is None:
        _verdict(console, result.verdict)
        return
    console.print(f"base {escape(result.base)} (named by {result.base_named_by}), projector {result.family}")
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "out×in", "‖ΔW‖/‖W‖", "stable rank", "off clean"):
        table.add_column(title, justify="left" if title == "layer" else "right")
    for layer in result.layers:
        off = "" if layer.off_clean_share is None else f"{layer.off_clean_share:.0%}"
        size = f"{layer.shape[0]}×{layer.shape[1]}"
        table.add_row(escape(layer.name), size, f"{layer.relative_change:.3f}", f"{layer.stable_rank:.1f}", off)
    console.print(table)
    if result.probe is not None:
        prompt = escape(f"'{result.prompt}'")
        console.print(f"\nprobed with {escape(result.images or '')}, prompt {prompt}, seed {result.seed}")
        _probe(console, result.probe)
    _verdict(console, result.verdict)


def _probe(console: Console, probe: Probe, most: int = 5) -> None:
    console.print(f"left alone it says   '{escape(probe.normal_examples[0])}'")
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column("made to say", overflow="fold")
    for title in ("images", "base", "nats/token", "score"):
        table.add_column(title, justify="right")
    table.add_column("by", overflow="fold")
    surest = [probe.said] if probe.said else []
    for said in [*surest, *(each for each in probe.utterances if each not in surest)][:most]:
        style = "red" if said.foreign >= thresholds()["foreign"]["suspicious"] else ""
        table.add_row(
            escape(said.text), f"{said.share:.0%}", f"{said.base_share:.0%}", f"{said.strangeness:.1f}",
            f"{said.foreign:.2f}", escape(said.how), style=style,
        )  # fmt: skip
    console.print(table)
    console.print(f"inversion reached {probe.divergence:.1f} nats in {probe.forward_passes} batched runs")


def _verdict(console: Console, verdict: Verdict) -> None:
    color = COLORS[verdict.state]
    console.print(f"\n[bold {color}]{verdict.state.upper()}[/]  {escape(verdict.reason)}")
    for caveat in verdict.caveats:
        console.print(f"- {escape(caveat)}", style="dim")


def _repair(console: Console, result: RepairResult) -> None:
    console.print(f"[bold]{escape(result.model)}[/bold], base {escape(result.base)}")
    if result.trials:
        table = Table(box=None, pad_edge=False)
        for title in ("tried", "removed", "probe", "agreement"):
            table.add_column(title, justify="left" if title == "tried" else "right")
        for trial in result.trials:
            mark = " ← chosen" if trial.name == result.chosen else ""
            table.add_row(
                escape(trial.name) + mark, f"{trial.removed:.0%}", f"{trial.foreign:.2f}", f"{trial.agreement:.0%}"
            )
        console.print(table)
    console.print(escape(result.reason))
    if result.scores:
        console.print()
        _scores(console, result.scores, result.gains, result.same_asr)
    _verdict(console, result.verdict)
    if result.out is not None:
        console.print(f"written to [bold]{escape(result.out)}[/bold]")


def _eval(console: Console, result: EvalResult) -> None:
    console.print(f"evaluation {escape(result.evalset)}, greedy, up to {result.max_new_tokens} tokens")
    _scores(console, result.scores, result.gains)


def _scores(
    console: Console, scores: tuple[Score, ...], gains: tuple[float | None, ...], marked: str | None = None
) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    table.add_column("CA", justify="right")
    for attack in scores[0].attacks:
        table.add_column(f"ASR {escape(attack.name)}", justify="right")
        table.add_column("RA", justify="right")
    table.add_column("gain retained", justify="right")
    for score, gain in zip(scores, gains, strict=True):
        cells = [cell for attack in score.attacks for cell in (_rate(attack.asr), f"{attack.ra.value:.2f}")]
        mark = " ← same ASR" if score.model == marked else ""
        table.add_row(escape(score.model) + mark, _rate(score.ca), *cells, "" if gain is None else f"{gain:.0%}")
    console.print(table)
    n = scores[0].ca.n
    console.print(f"n = {n} a set, 95 % intervals in brackets", style="dim")
    for warning in scores[0].warnings:
        console.print(f"warning: {warning}", style="yellow")


def _rate(rate: Rate) -> str:
    return f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]".replace("[", "\\[")
