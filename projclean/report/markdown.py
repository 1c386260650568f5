"""The markdown report: for a pull-request comment or a model card (GitHub's dialect)."""

from __future__ import annotations

import re
from typing import Any

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

SIGNS = {"clean": "✅", "suspicious": "❌", "inconclusive": "⚠️"}
MOST_UTTERANCES, MOST_ELSEWHERE = 5, 20


def render(result: Any, plain: bool = False, exit_code: int = 0) -> str:
    """A result as markdown."""
    if isinstance(result, ScanResult):
        parts = _scan(result)
    elif isinstance(result, SeriesResult):
        parts = _series(result)
    elif isinstance(result, RepairResult):
        parts = _repair(result)
    elif isinstance(result, EvalResult):
        parts = _eval(result)
    else:
        raise TypeError(f"no markdown report for {type(result).__name__}")
    return "\n\n".join(part for part in parts if part)


def _asked(probe: Probe) -> str:
    """What it was asked besides."""
    if not probe.asked:
        return ""
    return f" Asked {', '.join(map(_code, probe.asked))} too, for classes that are taken for one another."


def _scan(result: ScanResult) -> list[str]:
    parts = [f"## projclean scan of {_code(result.model)}", *_verdict(result.verdict)]
    if result.base is None:
        return parts
    if result.probe is not None:
        normal = _code(result.probe.normal_examples[0])
        parts.append(_table(tables.utterances(result.probe, result.thresholds, MOST_UTTERANCES)))
        parts.append(f"Left alone it says {normal}. Probed with {_prose(result.images or '')}, prompt "
                     f"{_code(result.prompt)}, seed {result.seed}.{_asked(result.probe)}")  # fmt: skip
        if result.guard:
            parts.append(f"Behind its guard: {_prose(result.guard.described)}.")
        parts.append(_thresholds(result.thresholds))
    parts.append(_table(tables.layers(result.layers)))
    if result.elsewhere:
        lines = [f"- {_code(line)}" for line in result.elsewhere[:MOST_ELSEWHERE]]
        if len(result.elsewhere) > MOST_ELSEWHERE:
            lines.append(f"- and {len(result.elsewhere) - MOST_ELSEWHERE} more")
        parts += ["**Changed outside the projector's matrices**", "\n".join(lines)]
    base = f"Base {_code(place(result.base))}, named by {_prose(result.base_named_by or '')}"
    parts.append(f"{base}; projector {_code(result.family)}.")
    return parts


def _series(result: SeriesResult) -> list[str]:
    first = result.steps[0].scan
    parts = [f"## projclean scan of {len(result.steps)} checkpoints", *_verdict(result.verdict)]
    parts.append(_table(tables.checkpoints(result)))
    if first.layers:
        parts += [_table(tables.turns(result)), TURNS]
    probed = tables.probed(result)
    if probed is not None:
        parts.append(f"Probed with {_prose(probed.images or '')}, prompt {_code(probed.prompt)}, seed {probed.seed}.")
        parts.append(_thresholds(result.thresholds))
    if result.base is not None:
        base = f"Base {_code(place(result.base))}, named by {_prose(first.base_named_by or '')}"
        parts.append(f"{base}; projector {_code(first.family)}.")
    return parts


def _repair(result: RepairResult) -> list[str]:
    parts = [f"## projclean repair of {_code(result.model)}", *_verdict(result.verdict)]
    parts.append(f"Method {_code(result.method)}: {_prose(result.reason)}.")
    if result.guard:
        parts.append(f"Guard: {_prose(result.guard.described)}.")
    if result.trials:
        parts.append(_table(tables.trials(result)))
    if result.scores:
        parts += _scores(result)
    if result.out is not None:
        parts.append(f"Written to {_code(result.out)}.")
    parts.append(f"Base {_code(place(result.base))}; {_prose(result.images)}, prompt {_code(result.prompt)}, "
                 f"seed {result.seed}.")  # fmt: skip
    if result.after is not None:
        parts.append(_thresholds(result.thresholds))
    return parts


def _eval(result: EvalResult) -> list[str]:
    head = f"## projclean eval on {_code(result.evalset)}"
    return [head, *_scores(result)]


def _scores(result: EvalResult | RepairResult) -> list[str]:
    parts = [_table(tables.scores(result))]
    parts.append(f"{_prose(tables.sample(result))}. CA: clean accuracy, ASR: attack success, RA: robust accuracy.")
    parts += [f"**Warning:** {_prose(warning)}." for warning in result.scores[0].warnings]
    changed = tables.paired(result)
    return [*parts, _table(changed)] if changed.rows else parts


def _verdict(verdict: Verdict) -> list[str]:
    caveats = "\n".join(f"- {_prose(caveat)}" for caveat in verdict.caveats)
    return [f"{SIGNS[verdict.state]} **{verdict.state.upper()}** — {_prose(verdict.reason)}", caveats]


def _thresholds(limits: Thresholds) -> str:
    return f"Thresholds: {_prose(limits.describe())}."


def _table(table: Table) -> str:
    """A pipe table; text columns left, figures right, bad and chosen rows bold in their first cell."""
    head = " | ".join(_prose(column.title) for column in table.columns)
    rule = " | ".join(":--" if column.prose else "--:" for column in table.columns)
    rows = []
    for row, mark in zip(table.rows, table.marks, strict=True):
        cells = [_code(cell) if column.raw else cell for column, cell in zip(table.columns, row, strict=True)]
        if mark:
            cells[0] = f"**{cells[0]}**"
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"**{_prose(table.caption)}**", "", f"| {head} |", f"| {rule} |", *rows])


def _code(text: str) -> str:
    """Text of a model or a file, literally. Whatever could be markup is an entity, which markdown never takes for
    it; GitHub makes no mentions or links inside `<code>`."""
    return "<code>" + re.sub(r"[!-'*+.:-<>?@\[-`{-~]", _entity, text) + "</code>"


def _prose(text: str) -> str:
    """A sentence that may quote a model: no markup, no HTML, no links, no @mentions, no #references."""
    text = re.sub(r"[\\`*_\[\]<>&|~$]", _entity, text)
    text = text.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")
    # The zero-width space stays where an entity would be turned back before mentions are looked for.
    return re.sub(r"(?<!&)([@#])", "\\1\u200b", text)


def _entity(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"
