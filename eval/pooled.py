"""A defence over many models: means with intervals over models, and paired comparison with one of them.

A model is the unit: random seeds of a row are averaged first, and the 95 % intervals are a percentile bootstrap over
models (paired where two defences are compared). Pure computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.figures import Figures, ModelFigures, group
from projclean.intervals import Interval

ROUNDS = 5000
LOW_ASR = 0.05  # at most this much of an attack is left where a defence is said to have held

Value = Callable[[Figures], float | None]


@dataclass(frozen=True)
class Mean:
    """One defence over the models on which it applies; None where no model has such a figure. `held` is how many
    models are left with an ASR of at most LOW_ASR in every row."""

    models: int
    asr: Interval | None
    worst_asr: float | None
    held: int
    ra: Interval | None
    gain: Interval | None
    cost: Interval | None


def over_models(models: Sequence[ModelFigures], defence: str) -> Mean | None:
    """Means over models, a defence's random seeds averaged; None where it applies to none."""
    rows = [rows for rows in (_rows(model, defence) for model in models) if rows]
    if not rows:
        return None
    worst = [max(row.asr for row in of if row.asr is not None) for of in rows if of[0].asr is not None]
    return Mean(
        len(rows),
        _interval(_averages(rows, lambda row: row.asr)),
        max(worst, default=None),
        sum(asr <= LOW_ASR for asr in worst),
        _interval(_averages(rows, _robust)),
        _interval(_averages(rows, _gain)),
        _interval(_averages(rows, lambda row: row.change.value if row.change else None)),
    )


def gain_against(models: Sequence[ModelFigures], defence: str, reference: str) -> Interval | None:
    """Mean paired difference of gain retained, defence − reference, over the models that have it under both."""
    differences = []
    for model in models:
        ours, theirs = (_average(_rows(model, name), _gain) for name in (reference, defence))
        if ours is not None and theirs is not None:
            differences.append(theirs - ours)
    return _interval(differences)


def oracle_interpolation(models: Sequence[ModelFigures], reference: str) -> Interval | None:
    """Gain retained by the best point of the interpolation sweep whose ASR is no higher than the reference's, chosen
    model by model with knowledge of both, minus the reference's."""
    differences = []
    for model in models:
        found = model.row(reference)
        if found is None or found.asr is None or found.gain is None:
            continue
        sweep = [row for row in model.rows if row.defence.startswith(("interpolation", "base restored"))]
        gains = [r.gain for r in sweep if r.asr is not None and r.asr <= found.asr and r.gain is not None]
        if gains:
            differences.append(max(gains) - found.gain)
    return _interval(differences)


def _rows(model: ModelFigures, defence: str) -> list[Figures]:
    return [row for row in model.rows if group(row.defence) == defence and row.ca is not None]


def _gain(row: Figures) -> float | None:
    return row.gain


def _robust(row: Figures) -> float | None:
    return min((attack.ra.value for attack in row.attacks), default=None)


def _averages(rows: Sequence[Sequence[Figures]], value: Value) -> list[float]:
    return [mean for mean in (_average(of, value) for of in rows) if mean is not None]


def _average(rows: Sequence[Figures], value: Value) -> float | None:
    found = [number for number in map(value, rows) if number is not None]
    return sum(found) / len(found) if found else None


def _interval(values: Sequence[float]) -> Interval | None:
    """Mean and percentile bootstrap, of no width where there is one model."""
    if not values:
        return None
    sample = np.asarray(values, float)
    drawn = np.random.default_rng(0).integers(0, len(sample), (ROUNDS, len(sample)))
    low, high = np.quantile(sample[drawn].mean(1), [0.025, 0.975])
    return Interval(float(sample.mean()), float(low), float(high))
