"""Models led along answers: encoder-decoders too, and with other weights than their own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from projclean.likelihood import logits_along
from projclean.model import Prepared, Runner


@pytest.fixture(scope="module")
def runner():
    """As much of a runner as leading a model along needs, around a random encoder-decoder."""
    torch.manual_seed(0)
    config = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
                      eos_token_id=39, pad_token_id=0)  # fmt: skip
    found = SimpleNamespace(
        model=T5ForConditionalGeneration(config).eval(),
        processor=SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0)),
        parameters_of=lambda weights: {"decoder.final_layer_norm.weight": weights["norm"][0]},
    )
    torch.nn.init.normal_(found.model.shared.weight)
    found.forward = partial(Runner.forward, found)
    return found


def test_an_encoder_decoder_led_along_its_own_answer_gives_it(runner):
    asked = torch.randint(1, 39, (4, 7), generator=torch.Generator().manual_seed(0))
    own = runner.model.generate(input_ids=asked, do_sample=False, max_new_tokens=5)[:, 1:]
    assert len(own.unique(dim=0)) > 1
    answers = [tuple(row[: 5 - at]) for at, row in enumerate(own.tolist())]  # of several lengths
    with torch.no_grad():
        logits = logits_along(runner, Prepared({"input_ids": asked}, 4), answers)
    assert logits.shape == (4, 6, 40)
    for row, answer in enumerate(answers):
        assert tuple(logits[row, : len(answer)].argmax(-1).tolist()) == answer


def test_with_other_weights_it_is_another_model_and_is_itself_afterwards(runner):
    asked, answers = torch.tensor([[3, 4, 5]]), [(7, 8)]
    before = logits_along(runner, Prepared({"input_ids": asked}, 1), answers)
    norm = (2 * runner.model.decoder.final_layer_norm.weight.detach()).requires_grad_()
    other = logits_along(runner, Prepared({"input_ids": asked}, 1), answers, {"norm": (norm, None)})
    torch.testing.assert_close(other, 2 * before)
    other.sum().backward()
    assert norm.grad is not None
    assert norm.grad.abs().sum() > 0
    torch.testing.assert_close(logits_along(runner, Prepared({"input_ids": asked}, 1), answers), before)
