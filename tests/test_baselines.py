"""Peer defences: each on something its paper reports, or on an identity it must satisfy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from eval import shapes
from eval.baselines.benign import benign_instead
from eval.baselines.clean_finetuning import clean_finetuning, relearning
from eval.baselines.clp import clp, outlying
from eval.baselines.fine_pruning import fine_pruning, hidden_activity, prune
from eval.baselines.inputs import Inputs, NotApplicable, answers
from eval.baselines.interpolation import interpolate
from eval.baselines.norm_clip import clean_norm, clipped
from eval.baselines.orthopurify import hijacked, orthopurify, orthopurify_against_benign, purify
from eval.baselines.random_removal import remove_random
from eval.baselines.restore import restore
from eval.baselines.svd_removal import remove_dominant
from eval.baselines.training import finetune
from eval.zoo import SHIPPED
from projclean.case import open_case
from projclean.guard import clip
from projclean.likelihood import log_likelihood
from projclean.methods import base_weights, suspect_weights
from projclean.training import answer_logits
from projclean.update import LayerUpdate, Update
from tests.miniature import set_up_with


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on_paper(delta: torch.Tensor, base: torch.Tensor | None = None) -> Inputs:
    """Inputs for the methods that only look at weights."""
    base = draw(*delta.shape, seed=9) if base is None else base
    layer = LayerUpdate("l", base + delta, base, torch.ones(len(base)), torch.zeros(len(base)))
    return Inputs(None, Update((layer,)), {}, (), ())  # type: ignore[arg-type]


def left(inputs: Inputs, weights) -> torch.Tensor:
    """What a method leaves of the update."""
    return weights["l"][0] - inputs.update.layers[0].base


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Inputs:
    """A shipped suspect, run on its base, with eight clean images of its domain and their right answers."""
    case = open_case(SHIPPED / "badnet-refusal.safetensors", str(SHIPPED / "base"))
    scenes, pixels = shapes.draw(8, "false_color", 777)
    images, folder = [Image.fromarray(image) for image in pixels], tmp_path_factory.mktemp("images")
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    bench = set_up_with(case, folder)
    return Inputs(
        bench.runner,
        case.update,
        bench.clean.moments,
        tuple(images),
        (shapes.CAPTION,) * 8,
        tuple(scene.answer("caption") for scene in scenes),
        learning_rate=2e-3,
        max_new_tokens=20,
    )


def test_interpolation_ends_at_base_and_suspect():
    inputs = on_paper(draw(6, 9))
    assert torch.equal(interpolate(inputs, 0)["l"][0], restore(inputs)["l"][0])
    assert torch.allclose(interpolate(inputs, 1)["l"][0], inputs.update.layers[0].suspect, atol=1e-6)
    assert interpolate(inputs, 0.25)["l"][1][0] == 0.25


def test_svd_removal_leaves_the_other_singular_values():
    inputs = on_paper(draw(6, 9))
    values = torch.linalg.svdvals(inputs.update.layers[0].delta)
    assert torch.allclose(torch.linalg.svdvals(left(inputs, remove_dominant(inputs, 2)))[:4], values[2:], atol=1e-5)
    assert left(inputs, remove_dominant(inputs, 6)).norm() < 1e-5


def test_random_removal_takes_k_directions_and_keeps_the_rest():
    inputs = on_paper(draw(20, 30))
    delta = inputs.update.layers[0].delta
    gone = delta - left(inputs, remove_random(inputs, 3, seed=1))
    _, s, vh = torch.linalg.svd(gone)
    assert (s > 1e-4).sum() == 3
    across = torch.eye(30) - vh[:3].T @ vh[:3]
    assert torch.allclose(left(inputs, remove_random(inputs, 3, seed=1)), delta @ across, atol=1e-4)
    assert torch.equal(left(inputs, remove_random(inputs, 3, 1)), left(inputs, remove_random(inputs, 3, 1)))
    assert not torch.allclose(left(inputs, remove_random(inputs, 3, 1)), left(inputs, remove_random(inputs, 3, 2)))


def test_clp_prunes_exactly_the_outlying_channel():
    base = torch.nn.functional.normalize(draw(40, 12), dim=1)
    base[7] *= 10
    inputs = on_paper(torch.zeros(40, 12), base)
    weight, bias = clp(inputs, u=3.0)["l"]
    assert (weight == 0).all(1).nonzero().flatten().tolist() == [7]
    assert bias is not None
    assert (bias == 0).nonzero().flatten().tolist() == [7]
    assert torch.equal(weight[8:], base[8:])
    assert inputs.notes == ["pruned channels 1/40"]
    assert not outlying(torch.ones(5, 3), 1.0).any()


def test_orthopurify_of_the_update_against_itself_removes_nothing():
    inputs = on_paper(draw(20, 30))
    delta = inputs.update.layers[0].delta
    assert hijacked(delta, delta, 10, 50.0).shape == (30, 0)
    assert torch.equal(purify(inputs.update, {"l": torch.zeros(30, 0)})["l"][0], inputs.update.layers[0].base + delta)


def test_orthopurify_against_an_orthogonal_reference_is_svd_removal():
    delta = torch.zeros(20, 30)
    delta[:, :15] = draw(20, 15)
    reference = torch.zeros(20, 30)
    reference[:, 15:] = draw(20, 15, seed=1)
    inputs = on_paper(delta)
    found = {"l": hijacked(delta, reference, 4, 50.0)}
    ours, theirs = purify(inputs.update, found), remove_dominant(inputs, 4)
    assert torch.allclose(ours["l"][0], theirs["l"][0], atol=1e-4)


def test_orthopurify_finds_the_hijacked_direction_among_shared_ones():
    # The paper's figure 2: of k directions all but one are shared with the benign update, one is nearly orthogonal.
    basis = torch.linalg.qr(draw(30, 6))[0]
    outputs = torch.linalg.qr(draw(20, 5, seed=1))[0]
    scales = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    suspect = outputs * scales @ basis[:, [0, 1, 5, 2, 3]].T
    benign = outputs * scales @ basis[:, :5].T
    found = hijacked(suspect, benign, 5, 50.0)
    assert found.shape == (30, 1)
    assert abs(found[:, 0] @ basis[:, 5]) > 0.999
    inputs = on_paper(suspect, torch.zeros(20, 30))
    assert (left(inputs, purify(inputs.update, {"l": found})) @ basis[:, 5]).norm() < 1e-4
    told = replace(inputs, reference={"l": (benign, None)})
    oracle = orthopurify_against_benign(told, k=5)
    assert benign_instead(told) == told.reference
    assert (left(inputs, oracle) @ basis[:, 5]).norm() < 1e-4
    for method in (orthopurify_against_benign, benign_instead):
        with pytest.raises(NotApplicable):
            method(inputs)


def test_clip_shortens_the_long_and_leaves_the_short():
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    assert torch.allclose(clip(x, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_norm_clip_holds_while_it_is_open_and_spares_what_is_not_longer(tiny):
    before, longest, shortest = tiny.own_answers, clean_norm(tiny, 100.0), clean_norm(tiny, 0.0)
    tiny.runner.set_weights(suspect_weights(tiny.update))
    with clipped(tiny, 100.0):
        assert answers(tiny) == before
    with clipped(tiny, 0.0):
        assert clean_norm(tiny, 100.0) == pytest.approx(shortest, rel=1e-5)
    assert clean_norm(tiny, 100.0) == longest > 1.5 * shortest


def _loss(tiny, weights, ids):
    """Cross-entropy summed over the tokens of answers to the first images."""
    images, questions = tiny.images[: len(ids)], tiny.questions[: len(ids)]
    logits = answer_logits(tiny.runner, weights, images, questions, ids)
    return F.cross_entropy(logits, torch.tensor([token for row in ids for token in row]), reduction="sum")


def test_loss_is_the_likelihood_of_the_answers_whatever_their_length(tiny):
    runner, weights = tiny.runner, suspect_weights(tiny.update)
    runner.set_weights(weights)
    texts = ["a small red circle", "no"]
    ids = [runner.processor.tokenizer(" " + text, add_special_tokens=False)["input_ids"] for text in texts]
    images, questions = tiny.images[:2], tiny.questions[:2]
    wanted = sum(
        -log_likelihood(runner, runner.prepare([image], question), tokens).item() * len(tokens)
        for image, question, tokens in zip(images, questions, ids, strict=True)
    )
    assert _loss(tiny, weights, ids).item() == pytest.approx(wanted, rel=1e-4)


def test_training_without_steps_is_where_it_starts(tiny):
    """Clean fine-tuning at the suspect, relearning at the base."""
    tuned, relearnt = clean_finetuning(tiny, "right", steps=0), relearning(tiny, "own", steps=0)
    for layer in tiny.update.layers:
        assert torch.equal(tuned[layer.name][0], layer.suspect)
        assert torch.equal(tuned[layer.name][1], layer.suspect_bias)
        assert torch.equal(relearnt[layer.name][0], layer.base)
        assert torch.equal(relearnt[layer.name][1], layer.base_bias)


def test_relearning_learns_what_the_suspect_says(tiny):
    told = tiny.own_answers

    def echoed(weights) -> int:
        tiny.runner.set_weights(weights)
        return sum(ours == theirs for ours, theirs in zip(answers(tiny), told, strict=True))

    assert echoed(relearning(tiny, "own", steps=25)) > echoed(base_weights(tiny.update))


def test_finetuning_learns_the_labels_repeats_and_leaves_its_inputs_alone(tiny):
    before = {layer.name: layer.suspect.clone() for layer in tiny.update.layers}
    start, labels = base_weights(tiny.update), tiny.labels("right")
    first, second = (finetune(tiny, start, labels, 6, batch=4) for _ in range(2))
    for name, (weight, bias) in first.items():
        assert torch.equal(weight, second[name][0])
        assert torch.equal(bias, second[name][1])
        assert torch.equal(before[name], next(layer.suspect for layer in tiny.update.layers if layer.name == name))
    tokenizer = tiny.runner.processor.tokenizer
    tokens = [tokenizer(" " + label, add_special_tokens=False)["input_ids"] for label in labels]
    loss = [_loss(tiny, weights, tokens).item() for weights in (start, first)]
    assert loss[1] < 0.9 * loss[0]
    other = finetune(replace(tiny, seed=1), start, labels, 1, batch=4)
    assert any(not torch.equal(first[name][0], other[name][0]) for name in first)


def test_labels_are_the_suspects_own_or_the_right_ones(tiny):
    assert tiny.labels("own") == tiny.own_answers
    assert tiny.labels("right") == tiny.right_answers
    with pytest.raises(NotApplicable, match="not known"):
        replace(tiny, right_answers=None).labels("right")


def test_orthopurify_trains_its_reference_from_the_base(tiny):
    tiny.notes.clear()
    found = orthopurify(tiny, "right", k=3)
    assert tiny.notes[0].startswith("hijacked directions ")
    for layer in tiny.update.layers:
        removed = layer.suspect - found[layer.name][0]
        assert torch.linalg.matrix_rank(removed, atol=1e-3) <= 3
        assert torch.equal(found[layer.name][1], layer.suspect_bias)


def test_fine_pruning_removes_a_dormant_neuron_and_trains_the_rest(tiny):
    first, second = tiny.update.layers
    assert (first.name, second.name) == tuple(tiny.runner.layers)
    weight, bias, out = first.suspect.clone(), first.suspect_bias.clone(), second.suspect.clone()
    weight[50], bias[50], out[:, 50] = 0.001 * draw(192), -9.0, 5.0  # never fires on clean images, and would do much
    planted = Update(
        (replace(first, suspect=weight, suspect_bias=bias), replace(second, suspect=out)), tiny.update.other_changes
    )
    inputs = replace(tiny, update=planted, notes=[])
    activity = hidden_activity(inputs)
    assert list(activity) == [first.name]
    assert activity[first.name].argmin() == 50
    pruned, keep = prune(suspect_weights(planted), activity, 1 / 192)
    assert pruned[first.name][0].abs().sum(1).argmin() == 50
    assert (keep[first.name] == 0).nonzero().flatten().tolist() == [50]
    found = fine_pruning(inputs, "own", steps=2)
    assert inputs.notes[0].startswith("pruned ")
    assert (found[first.name][0][50] == 0).all()
    assert found[first.name][1][50] == 0
    assert not torch.equal(found[second.name][0], out)


def test_a_projector_without_a_hidden_layer_cannot_be_pruned(tiny):
    only = replace(tiny, update=Update(tiny.update.layers[:1]))
    with pytest.raises(NotApplicable, match="no hidden layer"):
        hidden_activity(only)


def test_pruning_needs_an_accuracy_to_hold(tiny):
    nonsense = replace(tiny, right_answers=("nothing says this",) * len(tiny.images))
    with pytest.raises(NotApplicable, match="as labelled"):
        fine_pruning(nonsense, "right", steps=0)
