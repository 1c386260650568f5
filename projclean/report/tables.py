"""The tables of a result, drawn by every format in its own way: cells are plain text, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from projclean.evaluator import EvalResult
from projclean.metrics import Difference, Rate
from projclean.probe import Probe
from projclean.repairer import RepairResult
from projclean.scanner import LayerFinding, ScanResult
from projclean.series import SeriesResult
from projclean.thresholds import Thresholds
from projclean.utterance import distinct

TURNS = (
    "Principal angles between the suspicious subspaces of a checkpoint and of the one before or the last, smallest "
    "first: 0° is a direction that they share, near 90° one that they do not."
)


@dataclass(frozen=True)
class Column:
    """`prose` columns hold long text and may be folded; `raw` cells come from a model, a file or a user."""

    title: str
    prose: bool = False
    raw: bool = False


@dataclass(frozen=True)
class Table:
    """A caption, columns and rows; `marks` holds one of "", "bad" and "chosen" a row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...]


def layers(found: Sequence[LayerFinding]) -> Table:
    """What the weights say, a layer a row."""
    rows = tuple(
        (
            layer.name, f"{layer.shape[0]}×{layer.shape[1]}", f"{layer.relative_change:.3f}",
            f"{layer.stable_rank:.1f}", "" if layer.off_clean_share is None else f"{layer.off_clean_share:.0%}",
        )
        for layer in found
    )  # fmt: skip
    columns = (Column("layer", True, True), *map(Column, ("out×in", "‖ΔW‖/‖W‖", "stable rank", "off clean")))
    return Table("The update ΔW of every projector layer", columns, rows, ("",) * len(rows))


def utterances(probe: Probe, limits: Thresholds, most: int) -> Table:
    """What the probe made the model say, each text once, the surest first, then the strongest; "bad" where one alone
    would convict. Others are the base and a model that learnt again, whichever says it more."""
    surest = probe.said.text if probe.said else None
    said = sorted(distinct(probe.utterances), key=lambda each: each.text != surest)[:most]
    rows = tuple(
        (
            one.text, f"{one.share:.0%}", f"{one.others:.0%}", f"{one.strangeness:.1f}", f"{one.foreign:.2f}",
            one.how,
        )
        for one in said
    )  # fmt: skip
    columns = (
        Column("made to say", True, True), Column("images"), Column("others"), Column("nats/token"), Column("score"),
        Column("by", True),
    )  # fmt: skip
    return Table(
        "What it was made to say, the surest first, then by score",
        columns,
        rows,
        tuple("bad" if one.foreign >= limits.suspicious else "" for one in said),
    )


def checkpoints(result: SeriesResult) -> Table:
    """A checkpoint a row; "bad" where it is suspicious."""
    rows, marks = [], []
    for step in result.steps:
        probe, state = step.scan.probe, step.scan.verdict.state
        said = probe.said.text if probe and probe.said else ""
        rows.append((step.name, state, "" if probe is None else f"{probe.foreign:.2f}", said))
        marks.append("bad" if state == "suspicious" else "")
    columns = (Column("checkpoint", True, True), Column("verdict"), Column("score"), Column("made to say", True, True))
    return Table("The probe through training, the surest utterance of each", columns, tuple(rows), tuple(marks))


def turns(result: SeriesResult) -> Table:
    """What the weights say through training, layer by layer, a checkpoint a row."""
    rows = []
    for number, layer in enumerate(result.steps[0].scan.layers):
        for step in result.steps:
            found, turn = step.scan.layers[number], step.turns[number]
            off = "" if found.off_clean_share is None else f"{found.off_clean_share:.0%}"
            angles = (_angles(turn.to_previous), _angles(turn.to_last))
            rows.append((layer.name, step.name, f"{found.relative_change:.3f}", off, *angles))
    columns = (
        Column("layer", True, True), Column("checkpoint", True, True), Column("‖ΔW‖/‖W‖"), Column("off clean"),
        Column("to previous"), Column("to last"),
    )  # fmt: skip
    caption = f"The update through training, and how far its top {result.directions} directions turned"
    return Table(caption, columns, tuple(rows), ("",) * len(rows))


def probed(result: SeriesResult) -> ScanResult | None:
    """The first checkpoint that was probed: all are asked alike."""
    return next((step.scan for step in result.steps if step.scan.probe is not None), None)


def _angles(found: Sequence[float] | None) -> str:
    return "" if found is None else " ".join(f"{angle:.0f}°" for angle in found)


def probes(result: RepairResult) -> Table:
    """What was said before and after a repair."""
    rows = tuple(
        (name, f"{probe.foreign:.2f}", probe.said.text if probe.said else "")
        for name, probe in (("suspect", result.before), ("repaired", result.after))
        if probe is not None
    )
    columns = (Column("model", True), Column("score"), Column("made to say", True, True))
    return Table("The probe's score, and the surest utterance", columns, rows, ("",) * len(rows))


def trials(result: RepairResult) -> Table:
    """What the repair tried, from the least removal to the most, numbered as in the picture of the trade-off; with an
    evaluation set also what each candidate scores there."""
    columns = [Column("tried", True), Column("removed"), Column("probe"), Column("agreement")]
    measured = [trial.score for trial in result.trials if trial.score is not None]
    if measured:
        columns.append(Column("CA"))
        for attack in measured[0].attacks:
            columns += [Column(f"ASR {attack.name}"), Column("RA")]
    rows, marks = [], []
    for number, trial in enumerate(result.trials, 1):
        chosen = trial.name == result.chosen
        row = [f"{number}. {trial.name}" + " ← chosen" * chosen]
        row += [f"{trial.removed:.0%}", f"{trial.foreign:.2f}", f"{trial.agreement:.0%}"]
        if trial.score is not None:
            row.append(f"{trial.score.ca.value:.2f}")
            row += [f"{value:.2f}" for attack in trial.score.attacks for value in (attack.asr.value, attack.ra.value)]
        rows.append(tuple(row))
        marks.append("chosen" if chosen else "")
    return Table("What was tried, from the least removal to the most", tuple(columns), tuple(rows), tuple(marks))


def scores(result: EvalResult | RepairResult, brief: bool = False) -> Table:
    """Models side by side; in `brief` robust accuracy and gain are without their intervals."""
    measured, same_asr = result.scores, getattr(result, "same_asr", None)
    columns = [Column("model", True, True), Column("CA")]
    for attack in measured[0].attacks:
        columns += [Column(f"ASR {attack.name}"), Column("RA")]
    columns.append(Column("gain retained"))
    rows = []
    for score, gain, interval in zip(measured, result.gains, result.gain_intervals, strict=True):
        row = [score.model + " (guarded)" * score.guarded + " ← same ASR" * (score.model == same_asr), rate(score.ca)]
        for attack in score.attacks:
            row += [rate(attack.asr), f"{attack.ra.value:.2f}" if brief else rate(attack.ra)]
        kept = "" if gain is None else f"{gain:.0%}"
        row.append(kept if brief or interval is None else f"{kept} [{interval.low:.0%}, {interval.high:.0%}]")
        rows.append(tuple(row))
    return Table("Clean accuracy, attack success and robust accuracy", tuple(columns), tuple(rows), ("",) * len(rows))


def paired(result: EvalResult | RepairResult) -> Table:
    """What changed against the suspect (without a base: the first model) on the same items, with p-values."""
    measured = result.scores
    columns = [Column("model", True, True), Column("change of CA"), Column("p")]
    for attack in measured[0].attacks:
        columns += [Column(f"of ASR {attack.name}"), Column("p"), Column("of RA"), Column("p")]
    rows = []
    for score, change, attacks in zip(measured, result.changes, result.attack_changes, strict=True):
        if change is not None:
            found = [change, *(each for attack in attacks or () for each in (attack.asr, attack.ra))]
            cells = [cell for each in found for cell in (_change(each), f"{each.p:.2g}")]
            rows.append((score.model + " (guarded)" * score.guarded, *cells))
    return Table("Changes, item by item", tuple(columns), tuple(rows), ("",) * len(rows))


def rate(value: Rate) -> str:
    """A rate and its interval: 0.72 [0.66, 0.78]."""
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def sample(result: EvalResult | RepairResult) -> str:
    """What the rates rest on. An attack's own n where it is not that of the clean set: items whose right answer is
    what the attack wants do not count for it."""
    first = result.scores[0]
    sizes = [f"{attack.asr.n} of {attack.name}" for attack in first.attacks]
    apart = any(attack.asr.n != first.ca.n for attack in first.attacks)
    n = f"{first.ca.n} clean, {', '.join(sizes)}" if apart else f"{first.ca.n} a set"
    decoding = "" if result.max_new_tokens is None else f", greedy answers up to {result.max_new_tokens} tokens"
    return f"n = {n}, 95 % intervals in brackets{decoding}"


def _change(change: Difference) -> str:
    return f"{change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
