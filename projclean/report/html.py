"""The HTML report: one self-contained page, no scripts, no requests, light and dark.

Everything goes through jinja2 with autoescape; only the plots, drawn here, are put in as they are. The page forbids
itself scripts and requests by its content security policy.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from projclean import __version__
from projclean.evaluator import EvalResult
from projclean.repairer import RepairResult
from projclean.report import plots, tables
from projclean.report.places import place
from projclean.scanner import ScanResult
from projclean.series import SeriesResult

MOST_UTTERANCES, MOST_ELSEWHERE = 8, 200


def render(result: Any, plain: bool = False, exit_code: int = 0) -> str:
    """A result as a page."""
    if isinstance(result, ScanResult):
        return _page("scan", _scan(result))
    if isinstance(result, SeriesResult):
        return _page("series", _series(result))
    if isinstance(result, RepairResult):
        return _page("repair", _repair(result))
    if isinstance(result, EvalResult):
        return _page("eval", _eval(result))
    raise TypeError(f"no HTML report for {type(result).__name__}")


def _page(kind: str, context: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("projclean.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(f"{kind}.html.jinja").render(kind=kind, version=__version__, **context)


def _scan(result: ScanResult) -> dict[str, Any]:
    probe = result.probe
    return {
        "result": result,
        "verdict": result.verdict,
        "base": None if result.base is None else place(result.base),
        "layers": tables.layers(result.layers),
        "utterances": None if probe is None else tables.utterances(probe, result.thresholds, MOST_UTTERANCES),
        "strongest": Markup("" if probe is None else plots.strongest(probe, result.thresholds)),
        "elsewhere": result.elsewhere[:MOST_ELSEWHERE],
    }


def _series(result: SeriesResult) -> dict[str, Any]:
    first = result.steps[0].scan
    return {
        "result": result,
        "verdict": result.verdict,
        "base": None if result.base is None else place(result.base),
        "first": first,
        "probed": tables.probed(result),
        "checkpoints": tables.checkpoints(result),
        "turns": tables.turns(result) if first.layers else None,
        "about_turns": tables.TURNS,
    }


def _repair(result: RepairResult) -> dict[str, Any]:
    return {
        "result": result,
        "verdict": result.verdict,
        "base": place(result.base),
        "probes": tables.probes(result),
        "trials": tables.trials(result),
        "searched": Markup(plots.searched(result)),
        "trade_off": Markup(plots.trade_off(result)),
        **_measured(result),
    }


def _eval(result: EvalResult) -> dict[str, Any]:
    return {"result": result, "verdict": None, "plot": Markup(plots.side_by_side(result.scores)), **_measured(result)}


def _measured(result: RepairResult | EvalResult) -> dict[str, Any]:
    there = bool(result.scores)
    return {
        "scores": tables.scores(result) if there else None,
        "paired": tables.paired(result) if there else None,
        "sample": tables.sample(result) if there else "",
        "warnings": result.scores[0].warnings if there else [],
    }
