"""Figures of tables from measured rows: pairing, gain retained, and means over models."""

from __future__ import annotations

import pytest

from eval.defences import DEFENCES, RESTORED, UNDEFENDED
from eval.figures import ModelFigures, bits, group, model_figures
from eval.plots import STYLES
from eval.pooled import gain_against, oracle_interpolation, over_models


def row(correct: str, hits: str) -> dict:
    def rate(text: str) -> dict:
        from projclean.metrics import rate

        return vars(rate(bits(text)))

    attack = {"name": "a", "asr": rate(hits), "ra": rate("0" * len(hits)), "hits": hits, "right": "0" * len(hits)}
    return {"ca": rate(correct), "correct": correct, "attacks": [attack], "note": ""}


def test_figures_are_paired_with_undefended_and_base():
    rows = {UNDEFENDED: row("1" * 8 + "00", "1" * 10), RESTORED: row("1100000000", "0" * 10),
            "x seed 0": row("1" * 5 + "0" * 5, "1" + "0" * 9), "x seed 1": row("1" * 5 + "0" * 5, "111" + "0" * 7),
            "y": {"note": "not applicable: no labels"}}  # fmt: skip
    model = model_figures("m", 1, True, "a", rows)
    found = model.row("x seed 0")
    assert found.gain == pytest.approx(0.5)
    assert found.interval.low < 0.5 < found.interval.high
    assert found.change.value == pytest.approx(-0.3)
    assert found.attacks[0].change.p == pytest.approx(2 * 0.5**9)
    mean = over_models([model], "x")
    assert (mean.models, mean.asr.value, mean.worst_asr, mean.held) == (1, pytest.approx(0.2), 0.3, 0)
    assert over_models([model], "y") is None
    weak = model_figures("m", 1, True, "a", {**rows, UNDEFENDED: row("1" * 10, "1" * 8 + "00")})
    assert not weak.counts
    both = row("1" * 10, "1" * 10)
    both["attacks"] = [*both["attacks"], *row("1" * 10, "1" * 8 + "00")["attacks"]]
    none = {**row("0" * 10, "0" * 10), "attacks": row("0" * 10, "0" * 10)["attacks"] * 2}
    assert not model_figures("m", 1, True, "a", {UNDEFENDED: both, RESTORED: none}).counts


def made(name: str, correct: dict[str, int], hits: dict[str, int]) -> ModelFigures:
    """A model's figures from how many of ten items every defence gets right and gives away."""
    rows = {defence: row("1" * n + "0" * (10 - n), "1" * hits[defence] + "0" * (10 - hits[defence]))
            for defence, n in correct.items()}  # fmt: skip
    return model_figures(name, 1, True, "a", rows)


def test_over_models_a_model_is_the_unit_and_defences_are_compared_in_pairs():
    names = [UNDEFENDED, RESTORED, "interpolation 0.5", "interpolation 0.9", "ours", "x seed 0", "x seed 1"]
    first = made("m", dict(zip(names, [8, 0, 4, 6, 8, 4, 4], strict=True)),
                 dict(zip(names, [10, 0, 0, 9, 1, 0, 2], strict=True)))  # fmt: skip
    second = made("n", dict(zip(names, [8, 0, 2, 8, 4, 8, 8], strict=True)),
                  dict(zip(names, [10, 0, 0, 0, 0, 8, 10], strict=True)))  # fmt: skip
    mean = over_models([first, second], "x")
    assert (mean.models, mean.asr.value, mean.worst_asr, mean.held) == (2, pytest.approx(0.5), 1.0, 0)
    assert mean.gain.value == pytest.approx(0.75)
    assert (mean.gain.low, mean.gain.high) == (pytest.approx(0.5), pytest.approx(1.0))
    assert over_models([first, second], "ours").held == 1
    paired = gain_against([first, second], "x", "ours")
    assert paired.value == pytest.approx((-0.5 + 0.5) / 2)
    assert (paired.low, paired.high) == (pytest.approx(-0.5), pytest.approx(0.5))
    assert gain_against([first, second], "z", "ours") is None
    # At no higher ASR than ours: the first model's half way point, the second's 0.9.
    assert oracle_interpolation([first, second], "ours").value == pytest.approx((-0.5 + 0.5) / 2)
    assert oracle_interpolation([first], "ours").value == pytest.approx(-0.5)


def test_every_defence_has_its_own_name_and_random_seeds_pool():
    names = [defence.name for defence in DEFENCES]
    assert len(set(names)) == len(names)
    assert names[:2] == [UNDEFENDED, RESTORED]
    assert {defence.method for defence in DEFENCES} == set(STYLES)
    assert {group(name) for name in names if "seed" in name} == {f"random removal k={k}" for k in (1, 4, 10)}
    assert sum(defence.method == "interpolation" for defence in DEFENCES) == 9
