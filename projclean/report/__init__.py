"""Reports: one file per format over the same result dataclasses."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from projclean.errors import OptionError
from projclean.printable import printable_fields

FORMATS = ("text", "json", "sarif", "markdown", "html")

#: Version of the JSON report; raised when a field goes or changes its meaning, not when one is added.
SCHEMA_VERSION = 1


def check_format(form: str) -> None:
    """Refuse a format whose plotting library is missing, before the work and not after it."""
    if form == "html" and find_spec("matplotlib") is None:
        raise OptionError("--format html: its plots need matplotlib; run: python -m pip install 'projclean[html]'")


def render(result: Any, form: str, plain: bool = False, exit_code: int = 0) -> str:
    """A scan, repair or evaluation result as one document.

    `plain` text has no colours, for files; `exit_code` is the process's own, which SARIF records.
    """
    if form not in FORMATS:
        raise ValueError(f"unknown format {form!r}; use one of {', '.join(FORMATS)}")
    check_format(form)
    if form != "json":  # JSON keeps the strings as they are, in escapes
        result = printable_fields(result)
    document: str = import_module(f"projclean.report.{form}").render(result, plain, exit_code)
    return document
