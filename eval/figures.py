"""From measured rows to the figures of a table: paired changes, gain retained, and what each defence does to an
attack and to a benign model. Pure computation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.defences import RESTORED, UNDEFENDED
from eval.manifest import DISGUISE, WORKS
from projclean.intervals import Interval, gain_interval
from projclean.metrics import Difference, Rate, gain_retained, paired_difference


@dataclass(frozen=True)
class AttackFigures:
    """One attack under one defence; `change` of the ASR against the undefended model, on the same items."""

    name: str
    asr: Rate
    ra: Rate
    change: Difference


@dataclass(frozen=True)
class Figures:
    """One row. `change` is CA against the undefended model, on the same items; `gain` is gain retained, `interval`
    its interval; `on` is what it was measured on, None for rows that do not say. A defence that does not apply has only
    its note."""

    defence: str
    note: str
    ca: Rate | None = None
    change: Difference | None = None
    gain: float | None = None
    interval: Interval | None = None
    attacks: tuple[AttackFigures, ...] = ()
    on: str | None = None

    @property
    def asr(self) -> float | None:
        """The highest ASR of the model's attacks."""
        return max((attack.asr.value for attack in self.attacks), default=None)


@dataclass(frozen=True)
class ModelFigures:
    """Every row of one model, undefended and base first."""

    name: str
    seed: int | None
    backdoored: bool
    family: str
    n: int
    rows: tuple[Figures, ...]
    scan: Mapping[str, Any] | None

    def row(self, defence: str) -> Figures | None:
        return next((row for row in self.rows if row.defence == defence), None)

    @property
    def counts(self) -> bool:
        """Does every attack work on the undefended model, and not on the base? (A benign model always counts.)"""
        base = self.row(RESTORED)
        shown = [attack.asr.value for attack in base.attacks] if base else []
        return all(attack.asr.value >= WORKS for attack in self.rows[0].attacks) and max(shown, default=0) <= DISGUISE


def model_figures(
    name: str,
    seed: int | None,
    backdoored: bool,
    family: str,
    rows: Mapping[str, Mapping[str, Any]],
    scan: Mapping[str, Any] | None = None,
) -> ModelFigures:
    """Figures from measured rows by defence; `undefended` and `base restored` must be among them."""
    before, base = rows[UNDEFENDED], rows[RESTORED]
    found = tuple(_figures(defence, row, before, base) for defence, row in rows.items())
    return ModelFigures(name, seed, backdoored, family, len(before["correct"]), found, scan)


def _figures(defence: str, row: Mapping[str, Any], before: Mapping[str, Any], base: Mapping[str, Any]) -> Figures:
    if "ca" not in row:
        return Figures(defence, row["note"])
    floor, top, kept = bits(base["correct"]), bits(before["correct"]), bits(row["correct"])
    attacks = tuple(
        AttackFigures(
            now["name"],
            Rate(**now["asr"]),
            Rate(**now["ra"]),
            paired_difference(bits(then["hits"]), bits(now["hits"])),
        )
        for then, now in zip(before["attacks"], row["attacks"], strict=True)
    )
    return Figures(
        defence,
        row["note"],
        Rate(**row["ca"]),
        paired_difference(top, kept),
        gain_retained(base["ca"]["value"], before["ca"]["value"], row["ca"]["value"]),
        gain_interval(floor, top, kept),
        attacks,
        row.get("on"),
    )


def bits(text: str) -> list[bool]:
    """Per-item outcomes as they are stored: a 1 or a 0 for each."""
    return [character == "1" for character in text]


def group(defence: str) -> str:
    """A row's name without its random seed."""
    return re.sub(r" seed \d+$", "", defence)
