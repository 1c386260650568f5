"""Running in bfloat16 while gradients are wanted: the same model afterwards, and nearly the same one meanwhile."""

from __future__ import annotations

import pytest
import torch

from eval import shapes
from eval.architectures import build
from projclean import precision
from projclean.case import open_case, overlay
from projclean.methods import base_weights, suspect_weights
from projclean.model import Prepared, Runner
from projclean.precision import quick
from projclean.training import answer_logits
from tests.test_hooks import IMAGES, RUN


@pytest.fixture
def parts(zoo):
    case = open_case(zoo / "sig-shop", str(zoo / "base"))
    runner = Runner(case.model, None, "cpu")
    overlay(runner, case)
    return case, runner


@pytest.fixture
def worth_it(monkeypatch):
    """Any size is, on any processor."""
    monkeypatch.setattr(precision, "WORTH_IT", 0)
    monkeypatch.setattr(precision, "good_at_bfloat16", lambda device: True)


def pictures(count):
    from PIL import Image

    return [Image.fromarray(pixels) for pixels in shapes.draw(count, "false_color", 3)[1]]


@pytest.mark.usefixtures("worth_it")
def test_meanwhile_it_runs_in_bfloat16_and_answers_alike_and_afterwards_it_is_what_it_was(parts):
    case, runner = parts
    images, asked = pictures(6), [shapes.CAPTION] * 6
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    said = runner.replies(runner.prepare(images, asked), 12)
    weights, attention = suspect_weights(case.update), runner.model.config._attn_implementation
    exact = answer_logits(runner, weights, images, asked, said).log_softmax(-1)
    with quick(runner) as coarse:
        assert coarse
        assert {parameter.dtype for parameter in runner.model.parameters()} == {torch.bfloat16}
        near = answer_logits(runner, weights, images, asked, said).log_softmax(-1)
        runner.set_weights(base_weights(case.update))
    assert not torch.equal(near, exact)
    assert (near.exp() - exact.exp()).abs().max() < 0.1
    assert runner.model.config._attn_implementation == attention
    after = runner.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(answer_logits(runner, weights, images, asked, said).log_softmax(-1), exact)


@pytest.mark.usefixtures("worth_it")
def test_what_goes_wrong_meanwhile_leaves_the_model_as_it_was(parts):
    runner = parts[1]
    with pytest.raises(RuntimeError, match="stop"), quick(runner):
        raise RuntimeError("stop")
    assert {parameter.dtype for parameter in runner.model.parameters()} == {torch.float32}
    assert not runner.model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.usefixtures("worth_it")
def test_the_head_multiplies_what_is_contiguous(parts):
    runner, seen = parts[1], []
    with quick(runner):
        head = runner.model.get_output_embeddings()
        handle = head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].is_contiguous()))
        runner.forward(runner.prepare(pictures(2), shapes.CAPTION), logits_to_keep=2)
        handle.remove()
    assert seen == [True]


@pytest.mark.parametrize("reason", ["small", "processor"])
def test_a_small_model_and_one_on_a_processor_without_it_run_as_they_are(parts, monkeypatch, reason):
    monkeypatch.setattr(precision, "good_at_bfloat16", lambda device: reason == "small")
    monkeypatch.setattr(precision, "WORTH_IT", precision.WORTH_IT if reason == "small" else 0)
    with quick(parts[1]) as coarse:
        assert not coarse
        assert {parameter.dtype for parameter in parts[1].model.parameters()} == {torch.float32}


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("model_type", RUN)
def test_every_family_runs_meanwhile_with_a_gradient_or_is_left_as_it_is(model_type):
    """Some hold numbers that are no parameters, and would meet bfloat16 ones in products."""
    model = build(model_type)
    runner = Runner.around(model)
    batch = Prepared(RUN[model_type](model), IMAGES)
    plain = runner.next_token_logits(batch)
    weights = {name: (weight.requires_grad_(), bias) for name, (weight, bias) in runner.weights().items()}
    with quick(runner):
        logits = runner.forward(batch, 1, weights).logits[:, -1].float()
        logits.square().sum().backward()
        assert logits.isfinite().all()
    assert any(weight.grad is not None and weight.grad.any() for weight, _ in weights.values())
    assert torch.equal(runner.next_token_logits(batch), plain)
