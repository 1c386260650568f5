"""Strings out of a model or a hostile file, made harmless to look at.

Terminal escapes, other control characters, bidirectional overrides, invisible characters and lone surrogates are
shown as the escapes that Python would write. What is left is for the format to escape in its own syntax.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = {"\u200c", "\u200d"}  # scripts need them, and they hide nothing
HUB_SNAPSHOT = re.compile(r"(?:^|.*[/\\])models--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{7})[0-9a-f]*[/\\]?$")


def printable(value: T) -> T:
    """The same value with every string in it made printable; dataclasses, mappings and sequences all the way down."""
    shown: Any = value
    if isinstance(value, str):
        shown = _text(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = dataclasses.replace(
            value, **{field.name: printable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    elif isinstance(value, Mapping):
        shown = {printable(key): printable(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        shown = type(value)(printable(item) for item in value)
    return shown


def place(path: str) -> str:
    """A path as given, but a snapshot in the hub's cache as the model's name and revision."""
    found = HUB_SNAPSHOT.match(path)
    return f"{found[1].replace('--', '/')} (revision {found[2]})" if found else path


def _text(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if _hidden(char) else char for char in text)


def _hidden(char: str) -> bool:
    return unicodedata.category(char) in HIDDEN and char not in JOINERS


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
