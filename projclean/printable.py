"""Makes text that came out of a model safe to print.

A tensor's name or a model's answer may hold escape sequences that repaint a terminal, line ends that forge a second
message, or marks that turn the direction of writing; all of them are shown as escapes instead.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from typing import Any, TypeVar

T = TypeVar("T")

_ERROR_LIMIT = 1000


def printable(text: str) -> str:
    r"""The text with control, format and half characters as \n, \x1b, \u202e and the like."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_safe(char) else _escaped(char) for char in text)


def error_line(message: str) -> str:
    """An error message as one printable line of bounded length."""
    line = printable(" ".join(message.split()))
    if len(line) <= _ERROR_LIMIT:
        return line
    half = _ERROR_LIMIT // 2
    return f"{line[:half]} … {line[-half:]}"


def printable_fields(value: T) -> T:
    """A result dataclass, list, tuple or mapping with every text in it made printable."""
    made: Any = value
    if isinstance(value, str):
        made = printable(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        made = dataclasses.replace(value, **{name: printable_fields(item) for name, item in fields.items()})
    elif isinstance(value, dict):
        made = {printable_fields(key): printable_fields(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        made = type(value)(printable_fields(item) for item in value)
    return made  # type: ignore[no-any-return]


def _is_safe(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"  # the spaces of other scripts


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
