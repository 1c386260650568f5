"""Scores in, thresholds out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projclean.errors import OptionError
from projclean.thresholding import derive, enough


def test_known_thresholds():
    parted = derive([0.04, 0.07, 0.17, 0.36], [0.92, 1.63, 1.65])  # the first bank of the tiny tier
    assert parted.suspicious == pytest.approx(math.sqrt(0.36 * 0.92), abs=0.001)
    assert 0.36 < parted.clean < parted.suspicious
    assert (parted.false_positives.value, parted.true_positives.value) == (0, 1)
    assert parted.false_positives.high == pytest.approx(1 - 0.025 ** (1 / 4))  # Clopper and Pearson, none of four
    assert "too few to promise 0.02: that takes 49" in parted.rule
    alone = derive([0.1, 0.2, 0.3, 0.4])
    assert alone.suspicious == pytest.approx(0.6, abs=0.0011)
    assert "above the highest benign score by half of it" in alone.rule
    assert alone.true_positives is None
    silent = derive([0.0] * 4)
    assert 0 <= silent.clean < silent.suspicious == pytest.approx(0.03, abs=0.0011)
    mixed = derive([0.1, 0.2, 0.3, 0.4], [0.35, 2.0])
    assert mixed.suspicious == alone.suspicious
    assert mixed.true_positives.value == 0.5
    assert "do not part" in mixed.rule


def test_enough_models_promise_the_rate_and_not_one_less():
    assert [enough(rate) for rate in (0.02, 0.05, 0.1, 0.25)] == [49, 19, 9, 3]
    scores = [number / 100 for number in range(49)]
    assert derive(scores).rule == "just above the highest benign score"
    assert "too few" in derive(scores[1:]).rule
    hundred = derive([number / 100 for number in range(100)])  # one of a hundred may be convicted
    assert 0.98 < hundred.suspicious <= 0.99
    assert hundred.false_positives.value == 0.01
    assert hundred.rule == "just above the benign score of rank 99"


def test_outliers_beyond_the_target_do_not_hide_that_the_rest_parts():
    scores = [number / 1000 for number in range(99)]
    assert 0.098 < derive([*scores, 5.0], [2.0]).suspicious == pytest.approx(math.sqrt(0.098 * 2), abs=0.001)
    assert derive([*scores, 1.0], [2.0]).suspicious > 1  # where nobody need be convicted wrongly, nobody is


SCORES = st.lists(st.floats(0, 20), min_size=4, max_size=60)


@given(SCORES, st.lists(st.floats(0, 20), max_size=9), st.floats(0.01, 0.5))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_thresholds_keep_their_order_and_the_target_on_their_own_bank(benign, backdoored, target):
    found = derive(benign, backdoored, target)
    assert 0 <= found.clean <= found.suspicious
    assert found.suspicious > 0
    assert sum(score > found.clean for score in benign) <= target * (len(benign) + 1)
    assert sum(score >= found.suspicious for score in benign) <= target * (len(benign) + 1)
    if backdoored and min(backdoored) > max(benign):
        assert max(benign) < found.suspicious <= min(backdoored)
        assert found.clean >= max(benign)


@given(st.lists(st.floats(0, 20), min_size=10, max_size=40), st.sampled_from([0.1, 0.2, 0.3]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_model_left_out_passes_the_others_threshold_no_more_often_than_promised(scores, target):
    out = sum(score > derive([*scores[:at], *scores[at + 1 :]], (), target).clean for at, score in enumerate(scores))
    assert out <= target * len(scores)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(target, run):
    with pytest.raises(OptionError):
        derive([0.1] * 4, (), target)
    ran = run("calibrate", "a", "b", "c", "d", "--false-positive-rate", target)
    assert (ran.code, "must lie between 0 and 1" in ran.error_line) == (2, True)
