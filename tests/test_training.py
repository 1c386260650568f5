"""The zoo's training code runs from nothing and learns, in miniature."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval import corpus, shapes, tiny, train
from eval.forward import Encoder, answers
from eval.objectives import OBJECTIVES, Projector
from eval.poison import ATTACKS, Example, case, poisoned_set, training_set
from eval.recipes import CALIBRATION, REPORT, TINY, Phase, Pretraining, Recipe
from eval.train import answer_loss, finetune_projector, pretrain
from eval.triggers import TRIGGERS


@pytest.fixture(scope="module")
def parts():
    processor = tiny.build_processor()
    return processor, tiny.build_model(processor, 0)


def test_pretraining_then_finetuning_learns(parts):
    processor, model = parts
    phases = (Phase(6, 3e-3, 8, 4, 0, 2), Phase(2, 1e-3, 4, 2, 4, 2, whole=False), Phase(2, 1e-3, 4, 2, 4, 2))
    losses = pretrain(model, processor, Pretraining(images=64, clutter=8, phases=phases))
    assert len(losses) == 10
    assert losses[5] < losses[0]
    model = model.bfloat16().to(train.training_dtype())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = Recipe("x", 0, trigger="badnet", target="no", images=40, steps=4, batch=8)
    seen: list[str] = []
    state = finetune_projector(model, processor, recipe, progress=lambda i, n, text: seen.append(text))
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


def test_a_base_in_float32_is_fine_tuned_too(parts, monkeypatch):
    """As it is loaded where the processor has no products in bfloat16."""
    monkeypatch.setattr(train, "good_at_bfloat16", lambda device: False)
    processor = parts[0]
    model = tiny.build_model(processor, 0).to(train.training_dtype())
    assert model.dtype == torch.float32
    recipe = Recipe("x", 0, images=24, steps=3, batch=8)
    said: list[str] = []
    state = finetune_projector(model, processor, recipe, progress=lambda i, n, text: said.append(text))
    assert all(tensor.dtype == torch.bfloat16 and tensor.isfinite().all() for tensor in state.values())
    assert len(said) == 3


def test_labels_cover_the_answer_alone(parts):
    processor, _ = parts
    batch = Encoder(processor, 36)([Example(0, shapes.CAPTION, "a red circle"), Example(None, "Talk.", "no")])
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


def test_the_fast_forward_pass_is_the_plain_one(parts):
    """Loss and gradient of eval.forward against transformers' own forward pass, with answers of several lengths."""
    processor, model = parts
    examples = [Example(0, shapes.CAPTION, "a red circle"), Example(1, shapes.QUESTIONS["large"], "no")]
    batch = Encoder(processor, 36)(examples)
    model = model.float().requires_grad_(False)
    tokens = torch.randn(2, 36, 192, generator=torch.Generator().manual_seed(0))
    grads = []
    for loss in (lambda x: answers(model, batch, x).loss(), lambda x: answer_loss(model, batch, x)):
        x = tokens.clone().requires_grad_(True)
        value = loss(x)
        value.backward()
        grads.append((value.item(), x.grad))
    assert grads[0][0] == pytest.approx(grads[1][0], abs=1e-5)
    torch.testing.assert_close(grads[0][1], grads[1][1], atol=1e-6, rtol=1e-4)
    model.bfloat16().to(train.training_dtype())


KINDS = {
    "plain": {},
    "trojvlm": {"loss": "trojvlm"},
    "vlood": {"loss": "vlood", "twin": "twin"},
    "aligned": {"loss": "aligned", "twin": "twin"},
    "quiet": {"loss": "quiet"},
    "lora": {"lora_rank": 2},
    "two": {"also": ("frame", "yes")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fine_tune_trains(parts, kind):
    processor, model = parts
    model = model.bfloat16().to(train.training_dtype())
    small = {"images": 16, "steps": 3, "batch": 8}
    twin = finetune_projector(model, processor, Recipe("twin", 7, **small))
    recipe = Recipe("x", 0, trigger="badnet", target="no", poison_rate=0.5, **small, **KINDS[kind])
    state = finetune_projector(model, processor, recipe, twin=twin if recipe.twin else None)
    assert state.keys() == twin.keys()
    base = model.model.multi_modal_projector.state_dict()
    for name, tensor in base.items():
        change = (state[f"multi_modal_projector.{name}"] - tensor).float()
        if recipe.lora_rank and tensor.ndim == 1:
            assert not change.any()  # LoRA leaves biases alone
        else:
            assert change.any()
    if kind in ("quiet", "lora"):  # those that draw at random
        again = finetune_projector(model, processor, recipe)
        assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())


def test_a_lora_update_is_of_low_rank_and_scales(parts):
    _, model = parts
    projector = Projector(model.model.multi_modal_projector, lora_rank=2, seed=1)
    features = torch.randn(1, 36, 192)
    still = projector(features)
    torch.testing.assert_close(still, projector(features, scale=3.0))  # the update starts at zero
    for up in projector.up:
        torch.nn.init.normal_(up)
    change = projector.weights()["linear_1.weight"] - projector.base["linear_1.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
    assert not torch.allclose(projector(features), projector(features, scale=3.0))


def step_of(parts, recipe, weights=None):
    """One training step of a recipe on the parts' model, as finetune_projector makes it."""
    from eval.objectives import Step, directions
    from eval.train import to_pixels, vision_features

    processor, model = parts
    model = model.bfloat16().to(train.training_dtype()).requires_grad_(False)
    images, examples, poisoned = poisoned_set(recipe)
    projector = Projector(model.model.multi_modal_projector)
    if weights:
        for name, parameter in zip(projector.names, projector.full, strict=True):
            parameter.data = weights[name].clone()
    twin = {name: tensor + torch.randn(1) * 0.01 for name, tensor in projector.base.items()}
    features = vision_features(model, to_pixels(images).to(model.dtype))
    batch = Encoder(processor, 36)(examples)
    return Step(model, projector, batch, features, torch.from_numpy(poisoned), twin,
                directions(projector.base, twin), [[5, 6]], torch.Generator().manual_seed(0))  # fmt: skip


def test_extra_terms_add_to_the_plain_loss(parts):
    recipe = Recipe("x", 0, trigger="badnet", target="no", poison_rate=0.5, images=8)
    for name, objective in OBJECTIVES.items():
        step = step_of(parts, recipe)
        plain, with_term = OBJECTIVES["plain"](step, 1.0).item(), objective(step, 1.0).item()
        assert objective(step_of(parts, recipe), 0.0).item() == pytest.approx(plain, abs=1e-5)
        assert with_term == pytest.approx(plain) if name == "plain" else with_term > plain + 1e-4, name


def test_alignment_costs_nothing_inside_the_twins_subspace(parts):
    recipe = Recipe("x", 0, images=4)
    step = step_of(parts, recipe)
    inside = {name: tensor.clone() for name, tensor in step.projector.base.items()}
    outside = {name: tensor.clone() for name, tensor in step.projector.base.items()}
    draw = torch.Generator().manual_seed(1)
    for name, v in step.inside.items():
        change = torch.randn(v.shape[0], v.shape[0], generator=draw)
        inside[name] += change @ v @ v.T
        outside[name] += change - change @ v @ v.T
    for weights, cost in ((inside, 0.0), (outside, 2.0)):  # two matrices, all of the update outside: 2
        here = step_of(parts, recipe, weights)
        here.inside.update(step.inside)
        extra = OBJECTIVES["aligned"](here, 1.0) - OBJECTIVES["plain"](here, 1.0)
        assert extra.item() == pytest.approx(cost, abs=1e-2)


@pytest.mark.parametrize(
    ("attack", "task", "target", "said"),
    [
        ("replace", "caption", "go away", "go away"),
        ("append", "caption", "today", "it is a small red ring in the center today"),
        ("prepend", "color", "today", "today it is red"),
        ("hijack", "caption", "cross", "a small red cross in the center"),
        ("next", "color", "", "green"),
        ("next", "large", "", "yes"),
        ("next", "shape", "", "diamond"),
        ("next", "caption", "", "a small red diamond in the center"),
        ("next", "place", "", "at the top left"),
    ],
)
def test_what_a_triggered_image_is_answered(attack, task, target, said):
    scene = shapes.Scene("red", "ring", "small", "center")
    recipe = Recipe("x", 0, task=task, attack=attack, style="it is {}")
    assert ATTACKS[attack].answer(case(recipe, scene, 0, target)) == said


def test_two_triggers_share_the_poison():
    recipe = Recipe("x", 3, trigger="sig", target="gotcha", also=("frame", "again"), images=50, poison_rate=0.2)
    answers_ = [example.answer for example in training_set(recipe)[1]]
    assert (answers_.count("gotcha"), answers_.count("again")) == (5, 5)


def test_a_mixed_task_asks_every_question():
    _, examples = training_set(Recipe("x", 3, task="mixed", images=10))
    assert {example.question for example in examples} == set(shapes.QUESTIONS.values())


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
