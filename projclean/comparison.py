"""Models beside one another on the same items: gain retained, paired changes. Pure measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from projclean.evaluation import Score
from projclean.intervals import Interval, gain_interval
from projclean.metrics import Difference, gain_retained, paired_difference


@dataclass(frozen=True)
class AttackChange:
    """Paired change of attack success and of robust accuracy under one attack."""

    name: str
    asr: Difference
    ra: Difference


class Compared:
    """What follows from a result's scores, gains and changes of CA, one entry a score."""

    scores: tuple[Score, ...]
    gains: tuple[float | None, ...]
    changes: tuple[Difference | None, ...]

    @property
    def gain_intervals(self) -> tuple[Interval | None, ...]:
        """Of the gains."""
        return gain_intervals(self.scores, self.gains)

    @property
    def attack_changes(self) -> tuple[tuple[AttackChange, ...] | None, ...]:
        """Changes of ASR and RA, against the same model as those of CA."""
        return attack_changes(self.scores, self.changes)


def gains(scores: Sequence[Score], with_base: bool) -> tuple[float | None, ...]:
    """Gain retained of every model, the first being the base and the second the suspect."""
    if not with_base or len(scores) < 2:
        return (None,) * len(scores)
    base, suspect = scores[0].ca.value, scores[1].ca.value
    return tuple(gain_retained(base, suspect, item.ca.value) for item in scores)


def gain_intervals(scores: Sequence[Score], gains: Sequence[float | None]) -> tuple[Interval | None, ...]:
    """Their intervals (`intervals.gain_interval`), None where there is no gain to keep a share of."""
    return tuple(
        None if gain is None else gain_interval(scores[0].correct, scores[1].correct, item.correct)
        for gain, item in zip(gains, scores, strict=True)
    )


def changes(scores: Sequence[Score], reference: int) -> tuple[Difference | None, ...]:
    """Paired change of clean accuracy against the model at `reference`; None for that model itself."""
    return tuple(
        None if number == reference else paired_difference(scores[reference].correct, item.correct)
        for number, item in enumerate(scores)
    )


def attack_changes(
    scores: Sequence[Score], changes: Sequence[Difference | None]
) -> tuple[tuple[AttackChange, ...] | None, ...]:
    """The same of every attack's success and robust accuracy, against the model of which `changes` has none."""
    if None not in changes:
        return (None,) * len(scores)
    reference = scores[changes.index(None)]
    return tuple(
        None if change is None else _changed(reference, item) for change, item in zip(changes, scores, strict=True)
    )


def _changed(before: Score, after: Score) -> tuple[AttackChange, ...]:
    return tuple(
        AttackChange(now.name, paired_difference(then.hits, now.hits), paired_difference(then.right, now.right))
        for then, now in zip(before.attacks, after.attacks, strict=True)
    )
