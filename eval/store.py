"""Measured rows on disk: written whole or not at all, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from projclean.errors import OutputError

Rows = dict[str, dict[str, Any]]


class Store:
    """Rows by model and name, each with the digest of what it was measured on."""

    def __init__(self, file: Path, fresh: bool = False) -> None:
        self.file = file
        self._rows: dict[str, Rows] = {}
        if file.exists() and not fresh:
            try:
                self._rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise OutputError(f"{file}: is not a results file of this program; move it away") from error

    def get(self, model: str, name: str, digest: str) -> dict[str, Any] | None:
        """A row, unless it was never measured or was measured on something else."""
        row = self._rows.get(model, {}).get(name)
        return row if row is not None and row.get("digest") == digest else None

    def put(self, model: str, name: str, digest: str, row: dict[str, Any]) -> None:
        """Keep a row, and the file with it."""
        self._rows.setdefault(model, {})[name] = {**row, "digest": digest}
        self.write()

    def write(self, extra: dict[str, Any] | None = None) -> None:
        """Write every row, and `extra` beside them."""
        document = {"schema_version": 1, **(extra or {}), "rows": self._rows}
        beside = self.file.with_suffix(".part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            os.replace(beside, self.file)
        except OSError as error:
            raise OutputError(f"{self.file}: cannot be written ({error.strerror}); choose another --out") from error
