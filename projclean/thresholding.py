"""From the probe's scores on benign and backdoored models to the two thresholds. Pure: scores in, thresholds out.

The upper threshold lies above a reference score, that of split conformal prediction (Vovk, Gammerman and Shafer,
Algorithmic Learning in a Random World, 2005; Angelopoulos and Bates, arXiv 2107.07511): of n benign scores in ascending
order the ⌈(n + 1)(1 − α)⌉-th. A benign model that is exchangeable with those of the bank scores above it with
probability at most α. The lower threshold lies half way between the reference and the upper one, so that the same holds
for every verdict but clean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from projclean.errors import OptionError
from projclean.intervals import exact_rate
from projclean.metrics import Rate

FEWEST = 4  # benign models
STEP = 1000  # thresholds are multiples of a thousandth, the lower one of a tenth of that
MARGIN, LEAST_MARGIN = 0.5, 0.03  # above the highest benign score: its half, and no less than this
SILENCE = 0.01  # a score that a geometric mean does not go below


@dataclass(frozen=True)
class Derived:
    """Two thresholds and what they rest on. Rates are on the same scores, with exact intervals: the false-positive rate
    is optimistic, as the thresholds were chosen on them. `true_positives` is None without backdoored models."""

    suspicious: float
    clean: float
    rule: str
    highest_benign: float
    lowest_backdoored: float | None
    false_positives: Rate
    true_positives: Rate | None


def check_bank(benign: int, target: float) -> None:
    """Refuse a bank of too few benign models, or a target false-positive rate that is none. Raises OptionError."""
    if benign < FEWEST:
        raise OptionError(f"{benign} benign models are too few to set thresholds on; give at least {FEWEST}")
    if not 0 < target < 1:
        raise OptionError(f"--false-positive-rate {target:g}: must lie between 0 and 1")


def enough(target: float) -> int:
    """How many benign models it takes to promise a false-positive rate of at most `target`: the least n for which
    ⌈(n + 1)(1 − target)⌉ ≤ n."""
    return math.ceil(1 / _exact(target)) - 1


def derive(benign: Sequence[float], backdoored: Sequence[float] = (), target: float = 0.02) -> Derived:
    """Thresholds from one score a model, between 0 and 1.

    The reference is the conformal quantile of the benign scores, or the highest of them where there are too few for the
    target or where all backdoored scores lie above it. The upper threshold is the geometric mean of the reference and
    the lowest backdoored score where that lies above the reference; else just above the reference, or where benign
    models are too few above it by half, and at least by 0.03. Raises OptionError.
    """
    check_bank(len(benign), target)
    ordered, lowest = sorted(benign), min(backdoored, default=None)
    place = math.ceil((len(ordered) + 1) * (1 - _exact(target)))
    few = place > len(ordered)
    allowed = ordered[min(place, len(ordered)) - 1]
    reference = ordered[-1] if lowest is not None and lowest > ordered[-1] else allowed
    told = "the highest benign score" if reference == ordered[-1] else f"the benign score of rank {place}"
    if lowest is not None and lowest > reference:
        suspicious = _between(reference, lowest)
        rule = f"near the geometric mean of {told} and the lowest backdoored one"
    elif few:
        margin = max(MARGIN * reference, LEAST_MARGIN)
        suspicious = _above(reference + margin)
        rule = f"above {told} by {'half of it' if margin > LEAST_MARGIN else f'{LEAST_MARGIN}'}"
    else:
        suspicious, rule = _above(reference), f"just above {told}"
    if few:
        rule += (
            f"; {len(ordered)} benign models are too few to promise {target:.3g}: that takes {enough(target)}, and "
            f"the next one scores above all of these with probability up to {1 / (len(ordered) + 1):.2g}"
        )
    if lowest is not None and lowest <= ordered[-1]:
        rule += f"; the highest benign score is {ordered[-1]:.2f}, the lowest backdoored {lowest:.2f}: they do not part"
    clean = max(reference, round((reference + suspicious) / 2, 4))
    return Derived(
        suspicious,
        min(clean, suspicious),
        rule,
        ordered[-1],
        lowest,
        exact_rate([score >= suspicious for score in ordered]),
        exact_rate([score >= suspicious for score in backdoored]) if backdoored else None,
    )


def counted(rate: Rate) -> str:
    """A false-positive rate as counts, with the upper end of its interval."""
    return f"{_hits(rate)} (95 % Clopper–Pearson interval up to {rate.high:.2f})"


def counted_hits(rate: Rate) -> str:
    """A true-positive rate as counts, with the lower end of its interval."""
    return f"{_hits(rate)} (95 % Clopper–Pearson interval from {rate.low:.2f})"


def _hits(rate: Rate) -> str:
    return f"{round(rate.value * rate.n)} of {rate.n}"


def _exact(target: float) -> Fraction:
    """The rate as it was written: in binary, 1 − 0.02 is a little more than 0.98, and a rank would be lost to that."""
    return Fraction(str(float(target)))


def _above(score: float) -> float:
    """The least multiple of a step above a score."""
    return (math.floor(score * STEP) + 1) / STEP


def _between(low: float, high: float) -> float:
    """The geometric mean on a step; `high` itself where no step lies between."""
    mean = round(math.sqrt(max(low, min(SILENCE, high)) * high) * STEP) / STEP
    return mean if low < mean <= high else high
