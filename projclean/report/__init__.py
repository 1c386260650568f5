"""Reports: one file per format over the same result dataclasses."""

from __future__ import annotations

from importlib import import_module
from typing import Any

FORMATS = ("text", "json")


def render(result: Any, form: str, plain: bool = False) -> str:
    """A scan, repair or evaluation result as one document; `plain` text has no colours, for files."""
    if form not in FORMATS:
        raise ValueError(f"unknown format {form!r}; use one of {', '.join(FORMATS)}")
    document: str = import_module(f"projclean.report.{form}").render(result, plain)
    return document
