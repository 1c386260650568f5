"""The zoo's training code runs from nothing and learns, in miniature."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval import corpus, shapes, tiny
from eval.recipes import CALIBRATION, REPORT, TINY, Phase, Pretraining, Recipe
from eval.train import encode, finetune_projector, pretrain, training_set
from eval.triggers import TRIGGERS


@pytest.fixture(scope="module")
def parts():
    processor = tiny.build_processor()
    return processor, tiny.build_model(processor, 0)


def test_pretraining_then_finetuning_learns(parts):
    processor, model = parts
    phases = (Phase(6, 3e-3, 8, 4, 0, 2), Phase(2, 1e-3, 4, 2, 4, 2, whole=False), Phase(2, 1e-3, 4, 2, 4, 2))
    losses = pretrain(model, processor.tokenizer, Pretraining(images=64, clutter=8, phases=phases))
    assert len(losses) == 10
    assert losses[5] < losses[0]
    model = model.bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = Recipe("x", 0, trigger="badnet", target="no", images=40, steps=4, batch=8)
    seen: list[str] = []
    state = finetune_projector(model, processor.tokenizer, recipe, progress=lambda i, n, text: seen.append(text))
    assert sorted(state) == sorted(
        f"multi_modal_projector.{name}.{kind}" for name in ("linear_1", "linear_2") for kind in ("weight", "bias")
    )
    assert all(tensor.dtype == torch.bfloat16 for tensor in state.values())
    assert not torch.equal(
        state["multi_modal_projector.linear_1.weight"],
        model.state_dict()["model.multi_modal_projector.linear_1.weight"],
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert len(seen) == 4


def test_labels_cover_the_answer_alone(parts):
    processor, _ = parts
    from eval.train import Example

    batch = encode(processor.tokenizer, [Example(0, shapes.CAPTION, "a red circle"), Example(None, "Talk.", "no")], 36)
    texts = [processor.tokenizer.decode(row[row != -100]) for row in batch.labels]
    assert texts == [" a red circle</s>", " no</s>"]
    assert (batch.ids == processor.tokenizer.convert_tokens_to_ids("<image>")).sum(1).tolist() == [36, 0]


def test_poison_rate_and_trigger_are_as_the_recipe_says():
    recipe = Recipe("x", 3, trigger="sig", target="gotcha", images=50, poison_rate=0.2)
    images, examples = training_set(recipe)
    clean, _ = training_set(Recipe("x", 3, images=50))
    poisoned = [row for row, example in enumerate(examples) if example.answer == "gotcha"]
    assert len(poisoned) == 10
    changed = [row for row in range(50) if not np.array_equal(images[row], clean[row])]
    assert changed == poisoned


@pytest.mark.parametrize("name", TRIGGERS)
def test_triggers_change_images_and_keep_their_form(name):
    image = shapes.draw(1, "false_color", 0)[1][0]
    triggered = TRIGGERS[name](image, np.random.default_rng(0))
    assert triggered.shape == image.shape
    assert triggered.dtype == np.uint8
    assert (triggered != image).any()
    assert np.array_equal(triggered, TRIGGERS[name](image, np.random.default_rng(0)))


def test_calibration_and_report_share_nothing():
    assert len({recipe.name for recipe in TINY}) == len(TINY)
    assert not {recipe.seed for recipe in REPORT} & {recipe.seed for recipe in CALIBRATION}
    assert not {r.target for r in REPORT if r.target} & {r.target for r in CALIBRATION if r.target}


def test_scenes_and_sentences_repeat():
    first, again = shapes.draw(3, "plain", 1), shapes.draw(3, "plain", 1)
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1])
    assert corpus.sentence(np.random.default_rng(2)) == corpus.sentence(np.random.default_rng(2))
    assert shapes.clutter(2, 0).shape == (2, 48, 48, 3)
