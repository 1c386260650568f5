"""Interval estimates, against closed forms, published tables and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from projclean import intervals


def bits(text: str) -> list[bool]:
    return [character == "1" for character in text]


def test_gain_interval_of_a_constant_share_has_no_width():
    base, suspect = bits("0" * 40), bits("1" * 40)
    found = intervals.gain_interval(base, suspect, suspect)
    assert found == intervals.Interval(1.0, 1.0, 1.0)
    assert intervals.gain_interval(base, suspect, base) == intervals.Interval(0.0, 0.0, 0.0)


def test_gain_interval_is_the_binomial_one_where_base_and_suspect_are_certain():
    # Base all wrong, suspect all right: the gain retained is the repaired model's accuracy, its interval a
    # bootstrapped rate's, 0.7 ± 1.96·sqrt(0.7·0.3/400) up to resampling noise.
    repaired = bits("1" * 280 + "0" * 120)
    found = intervals.gain_interval([False] * 400, [True] * 400, repaired, rounds=8000)
    assert found is not None
    half = 1.96 * np.sqrt(0.7 * 0.3 / 400)
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.006)


def test_gain_interval_pairs_items():
    # Repaired and suspect right on the very same items: every resample retains all of the gain.
    base, suspect = bits("10" * 30), bits("11" * 20 + "10" * 10)
    assert intervals.gain_interval(base, suspect, suspect) == intervals.Interval(1.0, 1.0, 1.0)
    assert intervals.gain_interval(base, suspect, suspect[::-1], seed=3) == intervals.gain_interval(
        base, suspect, suspect[::-1], seed=3
    )


def test_no_gain_no_share_of_it():
    some = bits("10" * 30)
    assert intervals.gain_interval(some, some, some) is None
    hardly = bits("11" + "10" * 29)  # one item more: a resample without that item gained nothing
    assert intervals.gain_interval(some, hardly, some) is None
    with pytest.raises(ValueError, match="same items"):
        intervals.gain_interval(some, some[1:], some)


def test_auroc_is_mann_whitneys_and_its_variance_delongs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 1, 23).round(1), rng.normal(0, 1, 31).round(1)
    found = intervals.auroc(x, y)
    assert found.value == pytest.approx(mannwhitneyu(x, y).statistic / (23 * 31))
    # DeLong's covariance written out: structural components, one item at a time.
    v10 = [np.mean([(a > b) + 0.5 * (a == b) for b in y]) for a in x]
    v01 = [np.mean([(a > b) + 0.5 * (a == b) for a in x]) for b in y]
    spread = sum((v - found.value) ** 2 for v in v10) / 22 / 23 + sum((v - found.value) ** 2 for v in v01) / 30 / 31
    assert found.high - found.value == pytest.approx(1.959964 * np.sqrt(spread))


def test_auroc_by_hand():
    # 2 of 2·2 pairs won outright, one tied: 0.625.
    assert intervals.auroc([3, 1], [2, 1]).value == 0.625


def test_perfect_separation_of_a_few_proves_little():
    found = intervals.auroc([3, 4], [0, 1, 2])
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.3 < found.low < 0.7
    assert intervals.auroc([0, 1, 2], [3, 4]).high == pytest.approx(1 - found.low)
    assert intervals.auroc([9] * 50, [1] * 50).low > 0.92


def test_tpr_at_fpr_takes_the_lowest_threshold_that_holds():
    negatives = [0.1, 0.2, 0.3, 0.4, 0.9, 0.05, 0.06, 0.07, 0.08, 0.09]
    positives = [0.35, 0.5, 0.95, 0.4]
    strict = intervals.tpr_at_fpr(positives, negatives, 0.0)
    assert (strict.threshold, strict.tpr.value, strict.fpr.value) == (0.95, 0.25, 0.0)
    loose = intervals.tpr_at_fpr(positives, negatives, 0.1)
    assert (loose.threshold, loose.tpr.value, loose.fpr.value) == (0.5, 0.5, 0.1)
    hopeless = intervals.tpr_at_fpr([0.1], [0.2], 0.0)
    assert hopeless.tpr.value == 0


def test_clopper_pearson_of_published_values():
    # Standard table values: 0 of 10 and 8 of 10.
    assert intervals.exact_rate([False] * 10).high == pytest.approx(0.3085, abs=1e-4)
    eight = intervals.exact_rate([True] * 8 + [False] * 2)
    assert (eight.low, eight.high) == pytest.approx((0.4439, 0.9748), abs=1e-4)


def test_warnings_when_there_is_little():
    assert "only 40 items" in str(intervals.few_items(40))
    assert intervals.few_items(200) is None
    assert intervals.few_models(2, 30) == "only 2 backdoored and 30 benign models"
    assert intervals.few_models(20, 20) is None
