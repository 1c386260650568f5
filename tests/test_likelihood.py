"""Models led along answers: as generation leads them, encoder-decoders too, and with other weights than their own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from eval.architectures import build
from projclean.likelihood import logits_after, logits_along
from projclean.model import Prepared, Runner
from tests.test_hooks import IMAGES, RUN, pixels, square


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


def looked_at(model):
    """An image a row, which every token sees through cross-attention."""
    ids, size = torch.tensor([[1, 5, 6, 7, 8]] * IMAGES), model.config.vision_config.image_size
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels(IMAGES, 1, 3, size, size),
        "image_attention_mask": torch.ones(*ids.shape, 1, dtype=torch.long),
    }


def runner_of(model, **settings):
    """A runner around a tiny model that ends no answer early, with settings of its generation config."""
    for name, value in {"eos_token_id": None, **settings}.items():
        setattr(model.generation_config, name, value)
    tokenizer = SimpleNamespace(pad_token_id=0, all_special_ids=[])
    return Runner.around(model, SimpleNamespace(tokenizer=tokenizer))


@pytest.mark.parametrize("model_type", ["llava", "paligemma", "gemma3", "mllama", "idefics", "qwen2_5_vl", "blip-2"])
def test_an_answer_is_as_likely_as_generation_found_it(model_type):
    runner = runner_of(build(model_type, seed=1))
    batch = Prepared((RUN | {"idefics": looked_at})[model_type](runner.model), IMAGES)
    out = runner.model.generate(**batch.inputs, do_sample=False, max_new_tokens=4, suppress_tokens=[100, 101, 102],
                                output_logits=True, return_dict_in_generate=True)  # fmt: skip
    expected, answers = torch.stack(out.logits, 1), [tuple(row) for row in out.sequences[:, -4:].tolist()]
    with torch.no_grad():
        torch.testing.assert_close(logits_along(runner, batch, answers)[:, :4], expected, atol=1e-4, rtol=1e-4)
        answers[0] = answers[0][:2]
        shorter = logits_after(runner, batch, answers[:1] + [answer[:3] for answer in answers[1:]])
    torch.testing.assert_close(shorter, torch.cat([expected[:1, 2], expected[1:, 3]]), atol=1e-4, rtol=1e-4)


def test_what_a_decoder_is_forced_to_begin_with_is_no_part_of_its_answers():
    runner = runner_of(build("florence2"), decoder_start_token_id=2, bos_token_id=3, forced_bos_token_id=3)
    batch = Prepared(square(5)(runner.model), IMAGES)
    out = runner.model.generate(**batch.inputs, do_sample=False, num_beams=1, max_new_tokens=5, output_logits=True,
                                return_dict_in_generate=True)  # fmt: skip
    assert out.sequences[:, :2].tolist() == [[2, 3]] * IMAGES
    answers = runner.replies(batch, 5)
    assert answers == [tuple(row) for row in out.sequences[:, 2:].tolist()]
    with torch.no_grad():
        along, first = logits_along(runner, batch, answers), runner.next_token_logits(batch)
    torch.testing.assert_close(along[:, :4], torch.stack(out.logits[1:], 1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first, out.logits[1], atol=1e-4, rtol=1e-4)
