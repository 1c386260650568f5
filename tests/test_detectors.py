"""The other detectors: what they compute, on matrices made by hand and on a shipped suspect."""

from __future__ import annotations

import math

import pytest
import torch

from eval.detectors.attention import LAYERS, attention_score, entropies
from eval.detectors.outliers import outlying_row
from eval.detectors.spectral import LogisticRegression, statistics
from eval.zoo import SHIPPED
from projclean.case import open_case, overlay
from projclean.images import built_in_images
from projclean.methods import base_weights
from projclean.model import Runner
from projclean.update import LayerUpdate, Update


def update(delta: torch.Tensor, base: torch.Tensor | None = None) -> Update:
    base = torch.zeros_like(delta) if base is None else base
    return Update((LayerUpdate("l", base + delta, base, None, None),))


def test_statistics_of_a_known_spectrum():
    leading, norm, concentration, entropy, kurtosis = statistics(update(torch.diag(torch.tensor([3.0, 4.0]))))
    assert (leading, norm) == pytest.approx((4, 5))
    assert concentration == pytest.approx(16 / 25)
    assert entropy == pytest.approx(-(16 / 25 * math.log(16 / 25) + 9 / 25 * math.log(9 / 25)))
    entries = torch.tensor([3.0, 0, 0, 4])
    assert kurtosis == pytest.approx((((entries - 1.75) ** 4).mean() / entries.var(correction=0) ** 2).item())
    assert statistics(update(torch.zeros(2, 2))) == [0.0] * 5


def test_a_single_direction_is_the_least_entropy_and_the_most_concentration():
    spread = statistics(update(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))))
    single = statistics(update(torch.ones(8, 1) @ torch.arange(8.0)[None]))
    assert single[2] == pytest.approx(1)
    assert single[3] == pytest.approx(0, abs=1e-6)
    assert spread[3] > 1


def test_regression_parts_what_parts_and_does_not_learn_from_noise():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=draw)
    poisoned = [row[1].item() > 0 for row in x]
    fitted = LogisticRegression(x.tolist(), poisoned)
    scores = fitted.scores(x.tolist())
    assert min(s for s, bad in zip(scores, poisoned, strict=True) if bad) > -0.6
    assert abs(fitted.beta[2]) > 5 * max(abs(fitted.beta[1]), abs(fitted.beta[3]))
    shifted = fitted.scores((torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])).tolist())
    assert shifted[0] > 0 > shifted[1]


def test_the_row_that_stands_out_is_found():
    base = torch.ones(20, 4)
    delta = torch.zeros(20, 4)
    delta[7] = 5
    plain = base + 0.01 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert outlying_row(update(delta, plain)) > 4 > outlying_row(update(0 * delta, plain))


def test_attention_of_the_base_is_not_disturbed_and_the_model_is_left_as_it_was():
    case = open_case(SHIPPED / "badnet-refusal.safetensors", str(SHIPPED / "base"))
    runner = Runner(case.model, device="cpu")
    overlay(runner, case)
    batch = runner.prepare(built_in_images(6, 0), "Describe the image.")
    kind, before = runner.model.config._attn_implementation, runner.next_token_logits(batch)
    assert attention_score(runner, case.update, [batch]) > 0.05
    assert runner.model.config._attn_implementation == kind
    assert torch.equal(runner.next_token_logits(batch), before)
    same = Update(tuple(LayerUpdate(x.name, x.base, x.base, x.base_bias, x.base_bias) for x in case.update.layers))
    assert attention_score(runner, same, [batch]) == 0
    runner.set_weights(base_weights(case.update))
    found = entropies(runner, [batch])
    assert found.shape == (6, LAYERS)
    assert ((found > 0) & (found < 1 - 1 / 36 + 1e-6)).all()  # at most that of 36 image tokens alike
