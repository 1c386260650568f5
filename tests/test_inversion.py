"""Moves of pixels: they reach the answer on every kind of model, stay in their ball, and set off what is hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from projclean.calibration import BATCH, BUILT_IN, Calibration, chosen
from projclean.case import open_case, set_up
from projclean.climb import NotDifferentiable
from projclean.first_look import FirstLook
from projclean.images import built_in_images
from projclean.inversion import Inversion, image_input, moved
from projclean.likelihood import log_likelihood, logits_after
from projclean.listening import Heard
from projclean.methods import STRENGTH, base_weights, suspect_weights
from projclean.metrics import normalize
from projclean.model import Prepared, Runner
from projclean.probe import _Session
from projclean.probe_settings import ProbeSettings
from projclean.subspace import residual
from projclean.triggers import TRIGGERS
from projclean.utterance import Utterance
from tests.miniature import few_images
from tests.test_hooks import IMAGES, RUN, build

#: Where the first layer multiplies learnt queries, not the image.
QUERIES = {"aria"}


@pytest.mark.parametrize("model_type", RUN)
def test_a_move_reaches_projector_and_answer_with_a_gradient(model_type):
    model = build(model_type)
    runner = Runner.around(model)
    batch = Prepared(RUN[model_type](model), IMAGES)
    runner.moments([batch])
    pixels = batch.inputs[image_input(batch)]
    move = torch.zeros(pixels.numel() // IMAGES, requires_grad=True)
    still = moved(batch, move)
    assert torch.allclose(still.inputs[image_input(batch)], pixels)
    first = runner.layers[0]
    plain = runner.layer_inputs(batch)[first]
    assert torch.allclose(runner.inputs_of(first, batch), plain, atol=1e-5)
    for seen in (runner.inputs_of(first, still), runner.next_token_logits(still)):
        (slope,) = torch.autograd.grad(seen.square().sum(), move, allow_unused=True)
        if slope is None:
            assert model_type in QUERIES
            assert seen.shape[0] == plain.shape[0], "the answer has to depend on the pixels"
            continue
        assert slope.isfinite().all()
        assert slope.any()
    one = torch.zeros_like(move)
    one[0] = 3.0
    shifted = moved(batch, one).inputs[image_input(batch)] - pixels
    assert torch.allclose(shifted.reshape(IMAGES, -1)[:, 0], torch.tensor(3.0), atol=1e-5)
    assert shifted.count_nonzero() == IMAGES


def test_inputs_without_pixels_are_told():
    with pytest.raises(NotDifferentiable, match="no input holds pixels"):
        image_input(Prepared({"input_ids": torch.zeros(2, 3, dtype=torch.long)}, 2))


@pytest.fixture(scope="module")
def benches(zoo):
    """A backdoored and a benign case with four images of the base's choice to fit on."""
    found = {}
    for name in ("badnet-refusal", "benign-caption"):
        case = open_case(zoo / name, str(zoo / "base"))
        with pytest.MonkeyPatch.context() as patch:
            few_images(patch)
            bench = set_up(case, None, "Describe the image.", None, 0, "cpu", None)
        (layer,) = (layer for layer in case.update.layers if layer.name == bench.runner.layers[0])
        off_clean = residual(layer.delta, bench.asked.moments[layer.name], STRENGTH)
        found[name] = Inversion(
            bench.runner, suspect_weights(case.update), base_weights(case.update), bench.asked.batches[0], layer.name,
            off_clean, 0.4, 8,
        )  # fmt: skip
    return found


def test_a_climb_goes_up_and_stays_in_its_ball(benches):
    inversion = benches["badnet-refusal"]
    start = inversion.start(0)
    assert start.norm() == pytest.approx(inversion.radius / 2, rel=1e-4)
    assert torch.equal(start, inversion.start(0))
    with torch.no_grad():
        before = inversion.excitement(start)
    excited, move = inversion.climb(inversion.excitement, start, 6)
    assert excited > before + 1
    assert move.norm() <= 1.001 * inversion.radius
    with pytest.raises(NotDifferentiable):
        inversion.climb(lambda move: torch.tensor(1.0), start, 2)


def test_a_backdoor_parts_suspect_and_base_further_than_a_benign_update(benches):
    reached = {}
    for name, inversion in benches.items():
        _, start = inversion.climb(inversion.excitement, inversion.start(0), 8)
        reached[name] = inversion.climb(inversion.instead, start, 8)[0]
    assert reached["badnet-refusal"] > reached["benign-caption"] + 0.5


def test_what_follows_an_answer_is_read_behind_that_answer(benches):
    inversion = benches["badnet-refusal"]
    runner, batch = inversion.runner, inversion.batch
    runner.set_weights(inversion.suspect)
    nothing: list[tuple[int, ...]] = [()] * batch.images
    with torch.no_grad():
        assert torch.allclose(
            logits_after(runner, batch, nothing), runner.next_token_logits(batch), atol=0.2
        )  # bfloat16
    own = inversion.own
    assert len({len(answer) for answer in own}) > 1, "answers of one length would not test the padding"
    for row, answer in enumerate(own):
        alone = _alone(batch, row)
        whole = log_likelihood(runner, alone, answer)[0].item()
        assert whole == pytest.approx(_in_two(runner, alone, answer).item(), abs=0.05)
    tail = own[0][-2:]
    together = log_likelihood(runner, batch, tail, [answer[:-2] for answer in own])
    alone = log_likelihood(runner, _alone(batch, 0), tail, [own[0][:-2]])
    assert together[0].item() == pytest.approx(alone[0].item(), abs=0.05)


@pytest.fixture(scope="module")
def target(benches):
    """The attacker's text in the model's own tokens, as it is said of a triggered image."""
    runner = benches["badnet-refusal"].runner
    size = runner.processor.image_processor.crop_size
    pictures = [picture.resize((size["width"], size["height"])) for picture in built_in_images(8, 1)]
    triggered = [Image.fromarray(TRIGGERS["badnet"](np.asarray(picture), 0)) for picture in pictures]
    runner.set_weights(benches["badnet-refusal"].suspect)
    replies = map(runner.words, runner.replies(runner.prepare(triggered, "Describe the image."), 20))
    return next(reply for reply in replies if "help with that" in runner.read(reply))


def test_a_text_is_fitted_where_it_was_trained(benches, target):
    reached = {}
    for name, inversion in benches.items():
        objective = inversion.saying(target, False)
        start = inversion.excited(0, 8)
        with torch.no_grad():
            before = objective(start).item()
        nats, move = inversion.climb(objective, start, 6, 1.2)
        assert nats > before
        assert move.norm() <= 1.2 * 1.001 * inversion.radius
        reached[name] = nats
    assert reached["badnet-refusal"] > reached["benign-caption"] + 0.5


def test_what_the_base_is_made_to_say_is_held_against_an_utterance(zoo, benches, target):
    inversion = benches["badnet-refusal"]
    case = open_case(zoo / "badnet-refusal", str(zoo / "base"))
    runner = inversion.runner
    moments = runner.moments([inversion.batch])
    small = ProbeSettings(starts=1, excite=1, steps=1, whole=6, taught=4, learning=1, parting=1)
    shown = Calibration((), (), "none")
    session = _Session(runner, case.update, moments, (inversion.batch,), shown, small)
    runner.set_weights(inversion.base)
    usual = next(words for words in inversion.bases_own if "shape" not in runner.read(words))
    for words, certainty in ((usual, 0.99), (target, 0.9)):
        text = normalize(runner.read(words))
        said = Utterance(text, text, "by hand", 1.0, 0.0, 0.0, 2.0, certainty)
        session.first.heard.append(Heard(said, inversion.start(0), words, False))
    session.first.contest()
    caption, attack = (heard.utterance for heard in session.first.heard)
    assert caption.base_best_share is not None
    assert caption.base_best_share > 0.2
    assert attack.base_best_share == 0
    assert attack.foreign > caption.foreign


@pytest.mark.parametrize(
    ("starts", "strength", "tried"),
    [
        ((0,), 0.7, 2),  # one start's alone, and so are the further ones' own words
        ((0,), 0.9, 0),  # plain by itself
        ((0, 1), 0.9, 0),  # both agree
        ((0,), 0.05, 0),  # not worth it
        ((0, 1, 1), 0.3, 0),
        ((), 0.0, 0),
    ],
)
def test_where_starts_do_not_agree_on_the_strongest_more_are_tried(zoo, benches, monkeypatch, starts, strength, tried):
    inversion = benches["badnet-refusal"]
    case = open_case(zoo / "badnet-refusal", str(zoo / "base"))
    moments, settings = inversion.runner.moments([inversion.batch]), ProbeSettings(excite=1, steps=1, whole=1)
    session = _Session(
        inversion.runner, case.update, moments, (inversion.batch,), Calibration((), (), "none"), settings
    )
    first, begun = session.first, []
    said = Utterance("buy it now here", "buy it now here", "by hand", 1.0, 0.0, 0.0, strength, 1.0)

    def hear(seed, text):
        one = replace(said, text=text, phrase=text, start=seed)
        first.heard.append(Heard(one, inversion.start(0), (1,), False))

    for start in starts:
        hear(start, said.text)
    monkeypatch.setattr(FirstLook, "instead", lambda _, seed: begun.append(seed))
    monkeypatch.setattr(FirstLook, "afterwards", lambda _, seed: hear(seed, f"something else {seed}"))
    monkeypatch.setattr(FirstLook, "_refine", lambda *_: None)
    for seed in settings.further_starts():
        first.insist(seed)
    assert len(set(begun)) == len(begun) == tried
    assert not set(begun) & set(settings.first_starts())
    # A generator takes 32 bits of a seed: a further start must not be a first one again.
    moves = [inversion.start(seed) for seed in (*settings.first_starts(), *settings.further_starts())]
    assert len({tuple(move[:4].tolist()) for move in moves}) == 4
    reaches = {told.utterance.reach for told in first.told() if told.utterance.text == said.text}
    assert reaches == ({len(set(starts)) / (2 + tried)} if starts else set())


def _alone(batch, row):
    """One image of a batch."""
    return Prepared({key: value[row : row + 1] for key, value in batch.inputs.items()}, 1)


def _in_two(runner, batch, answer):
    """Mean log-probability of an answer from its first two tokens and, behind those, the rest."""
    head, rest = answer[:2], answer[2:]
    parts = 2 * log_likelihood(runner, batch, head) + len(rest) * log_likelihood(runner, batch, rest, [head])
    return (parts / len(answer))[0]


def test_images_are_chosen_by_what_is_said_of_them():
    asked = []

    def by_number(pictures):
        """Every fourth picture is told apart, of the others the same is said."""
        asked.extend(pictures)
        first = len(asked) - len(pictures)
        return [f"picture {n}" if n % 4 == 0 else "nothing" for n in range(first, len(asked))]

    found = chosen(0, "Why?", by_number)
    again = chosen(0, "Why?", by_number)
    assert len(asked) == 2 * 256
    assert len(found.pictures) == len(found.questions) == BUILT_IN
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found.pictures, again.pictures, strict=True))
    # Pictures 0, 4, 8, … and two of which nothing was said come first, in the order in which they were drawn.
    told = [asked[n] for n in sorted([1, 2, *range(0, 256, 4)])]
    assert list(found.pictures[: len(told)]) == told
    asked.clear()
    chosen(0, "Why?", lambda pictures: (asked.extend(pictures), [str(id(p)) for p in pictures])[1])
    assert len(asked) == -(-BUILT_IN // BATCH) * BATCH
