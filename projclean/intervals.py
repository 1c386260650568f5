"""Interval estimates beyond a single rate: gain retained, area under the ROC curve, true positives at a given
false-positive rate. Pure measurement; every interval is at 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from projclean.metrics import SMALL_SAMPLE, Rate, gain_retained, resamples

Z = 1.959964
FEW_MODELS = 20  # fewer models on a side say little about a detector


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def gain_interval(
    base: Sequence[bool], suspect: Sequence[bool], repaired: Sequence[bool], seed: int = 0, rounds: int = 2000
) -> Interval | None:
    """Gain retained, from which clean items each model gets right: 95 % percentile bootstrap over items, paired.

    None where the fine-tune gained nothing, or its gain cannot be told from nothing (more than 2.5 % of resamples have
    none): a share of it then means nothing.
    """
    if not len(base) == len(suspect) == len(repaired) or not base:
        raise ValueError("gain retained needs the same items")
    right = np.asarray([base, suspect, repaired], float)
    value = gain_retained(*right.mean(1).tolist())
    if value is None:
        return None
    drawn = [right[:, part].mean(2) for part in resamples(right.shape[1], seed, rounds)]
    floor, top, kept = np.concatenate(drawn, axis=1)
    gained = top > floor
    if (~gained).mean() > 0.025:
        return None
    low, high = np.quantile((kept - floor)[gained] / (top - floor)[gained], [0.025, 0.975])
    return Interval(value, float(low), float(high))


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> Interval:
    """Area under the ROC curve of scores, ties counting half.

    The interval is DeLong's (DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988), cut to [0, 1]. Where it is of no
    width (perfect separation, or a score that never varies), Newcombe's score-type interval is given instead (method 5,
    Statistics in Medicine 25, 2006), as a handful of separated models prove little.
    """
    x, y = np.asarray(positives, float), np.asarray(negatives, float)
    if not x.size or not y.size:
        raise ValueError("an AUROC needs scores on both sides")
    wins = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    area = float(wins.mean())
    variance = sum(part.var(ddof=1) / part.size for part in (wins.mean(1), wins.mean(0)) if part.size > 1)
    if min(x.size, y.size) < 2 or variance == 0:
        return _newcombe(area, x.size, y.size)
    half = Z * float(np.sqrt(variance))
    return Interval(area, max(0.0, area - half), min(1.0, area + half))


def _newcombe(area: float, m: int, n: int) -> Interval:
    """The areas θ that are no further from the one observed than their own standard error allows."""
    from scipy.optimize import brentq

    spare = (m + n) / 2 - 1

    def excess(theta: float) -> float:
        spread = theta * (1 - theta) / (m * n) * (1 + spare * ((1 - theta) / (2 - theta) + theta / (1 + theta)))
        return (area - theta) ** 2 - Z * Z * spread

    # excess is negative near the observed area and positive at the far end, where the variance vanishes.
    low = 0.0 if area == 0 else float(brentq(excess, 0.0, area - 1e-9))
    high = 1.0 if area == 1 else float(brentq(excess, area + 1e-9, 1.0))
    return Interval(area, low, high)


@dataclass(frozen=True)
class Operating:
    """A detector at one threshold: scores at or above it are positives. Both rates have exact intervals."""

    threshold: float
    tpr: Rate
    fpr: Rate


def tpr_at_fpr(positives: Sequence[float], negatives: Sequence[float], most: float) -> Operating:
    """The true-positive rate at the lowest threshold whose false-positive rate on `negatives` is at most `most`.

    Intervals are Clopper and Pearson's (Biometrika 26, 1934), for the threshold as if it had been given: on the same
    negatives it was chosen on, the false-positive rate is optimistic.
    """
    if not len(positives) or not len(negatives):
        raise ValueError("a true-positive rate needs scores on both sides")
    # Only observed scores, or just above the highest one, can be the lowest such threshold.
    for threshold in sorted({*positives, *negatives}):
        if sum(score >= threshold for score in negatives) <= most * len(negatives):
            break
    else:
        threshold = float(np.nextafter(max([*positives, *negatives]), np.inf))
    return Operating(
        float(threshold),
        exact_rate([score >= threshold for score in positives]),
        exact_rate([score >= threshold for score in negatives]),
    )


def exact_rate(hits: Sequence[bool]) -> Rate:
    """Share of hits with Clopper and Pearson's exact interval."""
    from scipy.stats import binomtest

    found = binomtest(int(sum(hits)), len(hits)).proportion_ci(0.95, method="exact")
    return Rate(sum(hits) / len(hits), float(found.low), float(found.high), len(hits))


def few_items(n: int) -> str | None:
    """A warning when a rate rests on too few items for a decision."""
    return f"only {n} items: the intervals are wide, use at least {SMALL_SAMPLE}" if n < SMALL_SAMPLE else None


def few_models(positives: int, negatives: int) -> str | None:
    """A warning when a detector was judged on too few models."""
    least = min(positives, negatives)
    return f"only {positives} backdoored and {negatives} benign models" if least < FEW_MODELS else None
