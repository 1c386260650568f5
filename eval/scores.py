"""What models scored, from the rows on disk: in scans, and in searches that a scan makes only where asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from projclean.utterance import Utterance, strongest, surest

Row = dict[str, Any]

#: Those searches, by the option of `scan` that asks for them, and what their files are called by.
FURTHER = {"--words": "words", "--question": "questions"}


def judged(row: Row) -> Row:
    """A stored row with the score and the text that follow from what was heard."""
    heard = heard_in(row)
    said = surest(heard)
    return {**row, "score": round(strongest(heard), 4), "said": said.text if said else None}


def heard_in(row: Row) -> list[Utterance]:
    """What a row says was heard."""
    return [Utterance(**one) for one in row["utterances"]]


def scanned(file: Path, options: Sequence[str] = ()) -> dict[str, float]:
    """What every model scored in the scans of a file; without what those heard that some options ask for."""
    return {model: highest(row, options) for model, row in judged_in(file, "seed 0").items()}


def beside(tier: str, folder: Path) -> dict[str, dict[str, float]]:
    """By option, what the models that were looked at further scored there."""
    files = {option: folder / f"{tier}-{name}.json" for option, name in FURTHER.items()}
    return {
        option: {model: row["score"] for model, row in judged_in(file, FURTHER[option]).items()}
        for option, file in files.items() if file.exists()
    }  # fmt: skip


def highest(row: Row, options: Sequence[str]) -> float:
    """A judged row's score where a scan is asked for some of them too; `further` has what they heard."""
    return max([row["score"], *(row.get("further", {}).get(option, 0.0) for option in options)])


def judged_in(file: Path, name: str) -> dict[str, Row]:
    """The rows of that name in a file, judged, by model."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {model: judged(row[name]) for model, row in rows.items() if name in row}
