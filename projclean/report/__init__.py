"""Reports: one file per format over the same result dataclasses."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from projclean.printable import printable_fields

FORMATS = ("text", "json")


def render(result: Any, form: str, plain: bool = False) -> str:
    """A scan, repair or evaluation result as one document; `plain` text has no colours, for files.

    Texts that came out of a model are shown printable: control characters as escapes, in every format.
    """
    if form not in FORMATS:
        raise ValueError(f"unknown format {form!r}; use one of {', '.join(FORMATS)}")
    document: str = import_module(f"projclean.report.{form}").render(printable_fields(result), plain)
    return document
