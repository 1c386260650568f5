"""Reading a report back: one that a run wrote with `--format json`, checked against the schema it was written by.

Trusts nothing in the file.
"""

from __future__ import annotations

import json
import math
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from projclean.errors import ReportError
from projclean.report import SCHEMA_VERSION

Report = dict[str, Any]

KINDS = ("scan", "series", "repair", "eval")


def load_report(path: str | Path) -> Report:
    """Read and check a JSON report of scan (also of a series), repair or eval ("-" reads stdin). Raises ReportError."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    name = "standard input" if str(path) == "-" else str(path)
    try:
        text = sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8")
        report = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise ReportError(f"{name}: cannot be read ({error.strerror})") from error
    except OverflowError as error:
        raise ReportError(f"{name}: holds a number that is not finite; the report was cut or edited") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{name}: is not JSON; pass a report written with --format json") from error
    if not isinstance(report, dict) or "schema_version" not in report or "kind" not in report:
        raise ReportError(f"{name}: is no projclean report; pass one written with --format json")
    if report["schema_version"] != SCHEMA_VERSION:
        raise ReportError(
            f"{name}: has schema version {report['schema_version']!r}, this projclean reads {SCHEMA_VERSION}; "
            "write the report again, or explain it with the projclean that wrote it"
        )
    if report["kind"] not in KINDS:
        raise ReportError(f"{name}: is a report of {report['kind']!r}; only {', '.join(KINDS)} can be explained")
    problem = best_match(Draft202012Validator(schema()).iter_errors(report))
    if problem is not None:
        raise ReportError(f"{name}: {problem.json_path} {problem.message[:200]}; the report was cut or edited")
    if report["kind"] in ("repair", "eval"):
        parts = ("scores", "gains", "changes", "gain_intervals", "attack_changes")  # older ones lack the last two
        lengths = {len(report[name]) for name in parts if name in report}
        if len(lengths) > 1:
            raise ReportError(f"{name}: scores, gains and changes do not fit together; the report was cut or edited")
    return report


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _finite(text: str) -> float:
    """Raises OverflowError for a number that no float holds, on which what a report says in words would fail."""
    value = float(text)
    if not math.isfinite(value):
        raise OverflowError(text)
    return value


def schema() -> Report:
    """The JSON Schema of the reports."""
    file = resources.files("projclean").joinpath("report/schema/report.json")
    loaded: Report = json.loads(file.read_text(encoding="utf-8"))
    return loaded
