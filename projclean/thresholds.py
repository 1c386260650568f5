"""The probe-score thresholds that a verdict is made with, and where they come from: the shipped ones, or a file's.

A file has the form of the packaged `thresholds.json`: an object `foreign` of which `suspicious` and `clean` are
required, and beside it `models`, the bank's scores, which `projclean calibrate` writes and a scan does not use.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from projclean import __version__
from projclean.errors import ThresholdsError
from projclean.further import NOTHING_FURTHER, Further
from projclean.untrusted import read_bytes

LIMIT = 4 << 20  # bytes of a thresholds file
FORM = "write it with projclean calibrate"


@dataclass(frozen=True)
class Thresholds:
    """Scores from `suspicious` on convict, up to `clean` they count as silence; between 0 and 1.

    `source` is the file they were read from, None for the shipped ones, `sha256` its digest. The rest is their
    provenance, None where the file does not tell it.
    """

    suspicious: float
    clean: float
    source: str | None = None
    sha256: str | None = None
    unit: str | None = None
    bank: str | None = None
    rule: str | None = None
    highest_benign: float | None = None
    lowest_backdoored: float | None = None
    target_false_positive_rate: float | None = None
    false_positives: str | None = None
    true_positives: str | None = None
    prompt: str | None = None
    seed: int | None = None
    command: str | None = None
    words: bool | None = None
    questions: bool | None = None
    date: str | None = None
    projclean: str | None = None

    def describe(self) -> str:
        """Both thresholds and their provenance in one phrase."""
        origin = [f"from {self.source}" if self.source else "shipped with projclean"]
        if self.bank:
            origin.append(f"set on {self.bank}")
        if self.false_positives:
            origin.append(f"false alarms there {self.false_positives}")
        if self.date:
            origin.append(self.date)
        return f"clean up to {self.clean:g}, suspicious from {self.suspicious:g}: {'; '.join(origin)}"

    def named(self) -> str:
        """The upper threshold as a verdict quotes it."""
        return f"{self.suspicious:g}" + (f" of {self.source}" if self.source else "")

    def caveats(self, prompt: str, further: Further = NOTHING_FURTHER) -> tuple[str, ...]:
        """How the bank was scanned otherwise than a suspect is that is asked `prompt` by this projclean, and looked at
        `further` or not: with that a score can only be higher."""
        found = []
        if self.prompt is not None and self.prompt != prompt:
            found.append(f"the thresholds were set with the prompt {self.prompt!r}, not with {prompt!r}")
        for option, asked, known in (
            ("--words", further.words, self.words), ("--question", further.questions, self.questions)
        ):  # fmt: skip
            if asked and not known:
                found.append(f"the thresholds were set without {option}: calibrate with it too")
        if self.projclean is not None and self.projclean != __version__:
            found.append(
                f"the thresholds were set with projclean {self.projclean}, this is {__version__}: scores may differ, "
                "so calibrate again"
            )
        return tuple(found)


PROVENANCE = frozenset(field.name for field in dataclasses.fields(Thresholds)) - {"source", "sha256"}
NUMBERS = frozenset({"suspicious", "clean", "highest_benign", "lowest_backdoored", "target_false_positive_rate"})
FLAGS = frozenset({"words", "questions"})


def given_thresholds(given: str | Path | Thresholds | None) -> Thresholds:
    """Thresholds from whatever a caller passed: a file's, the shipped ones for None. Raises ThresholdsError."""
    if isinstance(given, Thresholds):
        return given
    return shipped() if given is None else read_thresholds(given)


@cache
def shipped() -> Thresholds:
    """The packaged thresholds."""
    data = resources.files("projclean").joinpath("thresholds.json").read_bytes()
    return parse_thresholds(data, "projclean/thresholds.json", None)


def read_thresholds(path: str | Path) -> Thresholds:
    """A user's own thresholds. Raises ThresholdsError, in one line that names the file."""
    try:
        data = read_bytes(Path(path), LIMIT)
    except OSError as error:
        raise ThresholdsError(f"{path}: cannot be read as thresholds ({error.strerror}); {FORM}") from error
    return parse_thresholds(data, str(path), str(path))


def parse_thresholds(data: bytes, name: str, source: str | None) -> Thresholds:
    """Thresholds from the bytes of a file called `name` in errors. Raises ThresholdsError."""

    def refuse(what: str) -> NoReturn:
        raise ThresholdsError(f"{name}: {what}; {FORM}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            refuse("names a key twice")
        return dict(pairs)

    try:
        whole = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_constant=lambda word: refuse(f"holds {word}")
        )
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        refuse("is not JSON")
    if not isinstance(whole, dict) or not isinstance(whole.get("foreign"), dict):
        refuse("has no object 'foreign'")
    found: Mapping[str, Any] = whole["foreign"]
    if unknown := sorted((whole.keys() - {"foreign", "models"}) | (found.keys() - PROVENANCE)):
        refuse(f"has an unknown key {unknown[0]!r}")
    if not isinstance(whole.get("models", []), list):
        refuse("'models' is no list")
    for key in ("suspicious", "clean"):
        if key not in found:
            refuse(f"lacks {key!r}")
    for key, value in found.items():
        if key in NUMBERS and not _number(value):
            refuse(f"{key!r} is not a finite number")
        if key in FLAGS and not isinstance(value, bool):
            refuse(f"{key!r} is neither true nor false")
        if key == "seed" and (not isinstance(value, int) or isinstance(value, bool)):
            refuse("'seed' is not a whole number")
        if key not in NUMBERS | FLAGS | {"seed"} and not isinstance(value, str):
            refuse(f"{key!r} is not a text")
    if found["suspicious"] <= 0 or found["clean"] < 0:
        refuse("'suspicious' must be above 0 and 'clean' not below it")  # silence scores 0 and never convicts
    if found["suspicious"] > 1:
        refuse(f"'suspicious' ({found['suspicious']:g}) is above 1, the highest score there is: nothing would convict")
    if found["clean"] > found["suspicious"]:
        refuse(f"'clean' ({found['clean']:g}) is above 'suspicious' ({found['suspicious']:g})")
    numbers = {key: float(value) for key, value in found.items() if key in NUMBERS}
    return Thresholds(**{**found, **numbers}, source=source, sha256=hashlib.sha256(data).hexdigest())


def _number(value: object) -> bool:
    """Whether a JSON value is a number that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
