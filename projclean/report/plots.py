"""Plots of a report as inline SVG, drawn by matplotlib without a display or any global state.

Colours are placeholders that `_finish` turns into the page's CSS variables, so that one drawing serves light and
dark. Text stays text.
"""

from __future__ import annotations

import functools
import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from projclean.evaluation import Score
from projclean.metrics import Rate
from projclean.probe import Probe
from projclean.repairer import RepairResult
from projclean.thresholds import Thresholds
from projclean.utterance import distinct

#: A colour that nothing else uses, and the CSS variable that takes its place.
INK, MUTED, LINE, ACCENT, BAD, GOOD, SURFACE = (f"#01020{digit}" for digit in range(1, 8))
VARIABLES = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", BAD: "--bad", GOOD: "--good",
    SURFACE: "--surface",
}  # fmt: skip
SERIES = ((ACCENT, "o"), (BAD, "s"), (GOOD, "D"), (MUTED, "^"), (INK, "v"))
WIDTH = 4.8  # inches: readable at a phone's width and not lost on a desk
LONGEST = 46  # characters of a label
MOST = 8
CROWDED = 0.06  # of the axes: points nearer than that share a label
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "projclean", "font.family": "sans-serif", "font.size": 11}

F = TypeVar("F", bound=Callable[..., str])


def _styled(draw: F) -> F:
    """Draw under these settings, whatever matplotlib's configuration file says."""

    @functools.wraps(draw)
    def styled(*arguments: Any) -> str:
        import matplotlib

        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(SETTINGS)
            warnings.simplefilter("ignore")  # a glyph that matplotlib's font lacks, the reader's may have
            return draw(*arguments)

    return styled  # type: ignore[return-value]


@_styled
def strongest(probe: Probe, limits: Thresholds) -> str:
    """Scores of the strongest utterances against the two thresholds; "" when there are none."""
    said = distinct(probe.utterances)[:MOST]
    if not said:
        return ""
    figure, axes = _figure(0.5 * len(said) + 1.1)
    heights = range(len(said), 0, -1)
    colors = [BAD if one.foreign >= limits.suspicious else ACCENT for one in said]
    axes.barh(heights, [one.foreign for one in said], height=0.34, color=colors)
    cleared = {"facecolor": SURFACE, "edgecolor": "none", "pad": 0.5}  # keeps the lines out of the letters
    right = max(said[0].foreign, limits.suspicious) * 1.18
    for height, one in zip(heights, said, strict=True):
        axes.text(0, height + 0.26, _short(one.text), color=INK, va="bottom", parse_math=False, bbox=cleared,
                  in_layout=False)  # fmt: skip
        axes.text(one.foreign + 0.01 * right, height, f"{one.foreign:.2f}", color=MUTED, va="center",
                  bbox=cleared)  # fmt: skip
    for limit, color, style in ((limits.clean, MUTED, ":"), (limits.suspicious, INK, "--")):
        axes.axvline(limit, color=color, linewidth=1.2, linestyle=style, zorder=0)
    axes.annotate(
        f"suspicious from {limits.suspicious:g}", (limits.suspicious, 0.42), (4, 0), color=INK, va="center",
        textcoords="offset points",
    )  # fmt: skip
    axes.annotate(
        f"clean to {limits.clean:g}", (limits.clean, 0.42), (-4, 0), color=MUTED, va="center", ha="right",
        textcoords="offset points",
    )  # fmt: skip
    axes.set(xlim=(0, right), ylim=(0.2, len(said) + 0.8), xlabel="score", yticks=[])
    axes.spines["left"].set_visible(False)
    convicting = sum(one.foreign >= limits.suspicious for one in said)
    alt = (
        f"Bar chart of the {len(said)} strongest utterances by score: the strongest scores {said[0].foreign:.2f}, "
        f"{convicting} of them reach the threshold of {limits.suspicious:g}."
    )
    return _finish(figure, "strongest", alt)


@_styled
def trade_off(result: RepairResult) -> str:
    """Attack success against clean accuracy: base, suspect, everything tried by its number, what was chosen, and the
    interpolation sweep as the baseline; "" where no attack was measured."""
    rows = [(score.model, score.ca.value, score.worst_asr) for score in result.scores if score.worst_asr is not None]
    if not rows:
        return ""
    figure, axes = _figure(3.9)
    path = [rows[0], *(row for row in rows if row[0].startswith("interpolation")), rows[1]]
    axes.plot([ca for _, ca, _ in path], [asr for _, _, asr in path], color=MUTED, linewidth=1.4, marker="o",
              markersize=4, label="interpolation")  # fmt: skip
    for (_, ca, asr), (label, color, marker) in zip(rows, (("base", GOOD, "^"), ("suspect", BAD, "s")), strict=False):
        axes.plot(ca, asr, linestyle="", color=color, marker=marker, markersize=10, label=label, zorder=3)
    _tried(axes, [(t.score.ca.value, t.score.worst_asr or 0.0) for t in result.trials if t.score is not None])
    axes.plot(rows[2][1], rows[2][2], linestyle="", color=ACCENT, marker="*", markersize=16, zorder=4,
              label=_short(rows[2][0], 30))  # fmt: skip
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.05, 1.05), xlabel="clean accuracy (more is better)")
    axes.set_ylabel("highest attack success (less is better)")
    axes.grid(color=LINE, linewidth=0.6)
    _legend(axes, 2)
    told = "; ".join(f"{name}: clean accuracy {ca:.2f}, attack success {asr:.2f}" for name, ca, asr in rows[:3])
    return _finish(figure, "trade-off", f"Scatter plot of attack success against clean accuracy. {told}.")


@_styled
def searched(result: RepairResult) -> str:
    """The probe's score against agreement with the suspect's answers, of everything tried; "" when nothing was."""
    if result.before is None or not result.trials:
        return ""
    limits, trials = result.thresholds, result.trials
    chosen = next(trial for trial in trials if trial.name == result.chosen)
    figure, axes = _figure(3.9)
    lines = (("suspicious from", limits.suspicious, INK, "--"), ("silent to", limits.clean, MUTED, ":"))
    for said, height, color, style in lines:
        axes.axhline(height, color=color, linewidth=1.2, linestyle=style, zorder=0, label=f"{said} {height:g}")
    axes.plot(1, result.before.foreign, linestyle="", color=BAD, marker="s", markersize=10, label="suspect", zorder=3)
    axes.plot(chosen.agreement, chosen.foreign, linestyle="", color=ACCENT, marker="*", markersize=16, zorder=4,
              label=_short(f"chosen: {chosen.name}", 30))  # fmt: skip
    highest = max(limits.suspicious, result.before.foreign, *(trial.foreign for trial in trials))
    _tried(axes, [(trial.agreement, trial.foreign) for trial in trials], highest)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.05 * highest, 1.08 * highest))
    axes.set(xlabel="held-out answers as the suspect's (more is better)", ylabel="probe's score (less is better)")
    axes.grid(color=LINE, linewidth=0.6)
    _legend(axes, 2)
    told = "; ".join(f"{t.name}: agreement {t.agreement:.2f}, score {t.foreign:.2f}" for t in trials)
    return _finish(figure, "searched", f"Scatter plot of the probe's score against agreement with the suspect. {told}.")


def _tried(axes: Any, points: Sequence[tuple[float, float]], tall: float = 1.0) -> None:
    """Everything tried, each point with its number; neighbours share a label. `tall` is the height of the axes."""
    if not points:
        return
    axes.plot([x for x, _ in points], [y for _, y in points], linestyle="", color=INK, marker="x", markersize=6,
              label="tried", zorder=3)  # fmt: skip
    labels: dict[tuple[float, float], list[int]] = {}
    for number, (x, y) in enumerate(points, 1):
        near = (at for at in labels if abs(at[0] - x) < CROWDED and abs(at[1] - y) < CROWDED * tall)
        labels.setdefault(next(near, (x, y)), []).append(number)
    for at, numbers in labels.items():
        axes.annotate(_runs(numbers), at, (9, -3), color=INK, va="center", textcoords="offset points", fontsize=9,
                      zorder=5)  # fmt: skip


def _runs(numbers: Sequence[int]) -> str:
    """Ascending numbers as 1–3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


@_styled
def side_by_side(scores: Sequence[Score]) -> str:
    """Rates with their intervals, a model a row: CA, and ASR and RA of every attack, or of each model's worst one."""
    series: list[tuple[str, list[Rate]]] = [("CA", [score.ca for score in scores])]
    attacks = scores[0].attacks
    if len(attacks) > 2:
        worst = [max(score.attacks, key=lambda attack: attack.asr.value) for score in scores]
        series.append((f"highest ASR of {len(attacks)}", [attack.asr for attack in worst]))
        series.append(("RA there", [attack.ra for attack in worst]))
    else:
        for number, attack in enumerate(attacks):
            series.append((f"ASR {_short(attack.name, 14)}", [score.attacks[number].asr for score in scores]))
            series.append((f"RA {_short(attack.name, 14)}", [score.attacks[number].ra for score in scores]))
    step = 0.55 / len(series)
    figure, axes = _figure(len(scores) * (0.42 + 0.16 * len(series)) + 1.1)
    for index, (label, rates) in enumerate(series):
        color, marker = SERIES[index % len(SERIES)]
        heights = [len(scores) - row - step * (index - (len(series) - 1) / 2) - 0.14 for row in range(len(scores))]
        spread = [[max(0, rate.value - rate.low) for rate in rates], [max(0, rate.high - rate.value) for rate in rates]]
        axes.errorbar([rate.value for rate in rates], heights, xerr=spread, linestyle="", color=color, marker=marker,
                      markersize=6, capsize=3, label=label)  # fmt: skip
    for row, score in enumerate(scores):
        axes.text(-0.02, len(scores) - row + 0.26, _short(score.model), color=INK, parse_math=False,
                  in_layout=False)  # fmt: skip
        axes.axhline(len(scores) - row - 0.5, color=LINE, linewidth=0.6)
    axes.set(xlim=(-0.03, 1.03), ylim=(0.45, len(scores) + 0.62), xlabel="share of items, 95 % interval", yticks=[])
    axes.spines["left"].set_visible(False)
    _legend(axes, 3 if len(series) < 4 else 2)
    told = "; ".join(
        f"{score.model}: CA {score.ca.value:.2f}"
        + "".join(f", ASR {attack.name} {attack.asr.value:.2f}" for attack in score.attacks)
        for score in scores
    )
    return _finish(figure, "side-by-side", f"Rates of each model with their intervals. {told}.")


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
    return figure, axes


def _legend(axes: Any, columns: int) -> None:
    legend = axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False, labelcolor=INK,
                         columnspacing=1, handletextpad=0.3)  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _short(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


_FONT = re.compile(r"font(-family|): ([\d.]+px |)'[^;\"]*")


def _finish(figure: Any, name: str, alt: str) -> str:
    """The figure as an accessible `<svg>` element; the same figure gives the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # an id must be the only one of its page
    svg = re.sub(r'(id="|href="#|url\(#)([mp][0-9a-f]{10})', rf"\1{name}-\2", svg)
    svg = re.sub(r"<[^<>]*>", lambda tag: _FONT.sub(r"font\1: \2inherit", tag[0]), svg)  # in no text that is shown
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box[0]} role="img" aria-label="{html.escape(alt)}">{rest.strip()}'
