"""The JSON report: the result's fields as they are, with the schema's version, the kind and the versions used.

`schema/report.json` describes it. Characters beyond ASCII are written as escapes, so that no terminal, locale or
lone surrogate in a file name can harm the document.
"""

from __future__ import annotations

import dataclasses
import json
import math
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from projclean import __version__
from projclean.report import SCHEMA_VERSION


def render(result: Any, plain: bool = False, exit_code: int = 0) -> str:
    """One JSON object, keys in a fixed order; no NaN or infinity."""
    kind = type(result).__name__.removesuffix("Result").lower()
    head = {"schema_version": SCHEMA_VERSION, "kind": kind, "versions": _versions()}
    return json.dumps(head | _plain(result), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        derived = {name: _plain(getattr(value, name)) for name in _derived(type(value))}
        return fields | derived
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _derived(kind: type) -> list[str]:
    found = (name for part in kind.__mro__ for name, member in vars(part).items() if isinstance(member, property))
    return list(dict.fromkeys(found))


def _versions() -> dict[str, str]:
    found = {"projclean": __version__}
    for package in ("torch", "transformers", "safetensors", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
