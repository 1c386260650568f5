"""A longer lesson and its judge, on a shipped suspect in miniature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from eval import shapes
from eval.zoo import SHIPPED
from projclean import candidates, doubt, imitation, learning
from projclean.calibration import Calibration
from projclean.case import open_case
from projclean.distillation import Effort, distill
from projclean.doubt import judged
from projclean.errors import ImagesError
from projclean.lessons import Lesson, lesson, likelihoods
from projclean.methods import base_weights, suspect_weights
from projclean.triggers import TRIGGERS
from tests.miniature import set_up_with


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A case and its bench with twelve images of its domain, of which eight may be learnt from."""
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(shapes.draw(12, "false_color", 777)[1]):
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    case = open_case(SHIPPED / "badnet-refusal.safetensors", str(SHIPPED / "base"))
    return case, set_up_with(case, folder)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(Effort, "on", lambda images: Effort(8, 4, 0.1))


def test_a_part_of_a_lesson_keeps_its_order_and_how_many_are_no_blends(parts):
    case, bench = parts
    whole = lesson(bench.runner, case.update, bench.learnt, (), 8, total=12, trimmed=0.0)
    assert (len(whole.replies), whole.unblended) == (12, 8)
    some = whole.part([9, 2, 7])
    assert some.replies == tuple(whole.replies[row] for row in (2, 7, 9))
    assert some.images.pictures == tuple(whole.images.pictures[row] for row in (2, 7, 9))
    assert (some.unblended, some.looked_at) == (2, 12)
    assert whole.part(range(12)) == whole


@pytest.mark.usefixtures("short")
def test_what_the_judge_finds_least_likely_is_not_learnt(parts):
    case, bench = parts
    whole = lesson(bench.runner, case.update, bench.learnt, (), 8, total=16, trimmed=0.0)
    kept, judge = judged(bench.runner, case.update, whole)
    alone = whole.part(range(8))
    again = distill(bench.runner, case.update, alone.images, alone.replies, 0.0, effort=Effort.on(8))
    assert all(torch.equal(judge[name][0], again[name][0]) for name in judge)
    likely = likelihoods(bench.runner, judge, whole.images, whole.replies)
    wanted = sorted(range(16), key=likely.__getitem__)[int(doubt.DOUBTED * 16) :]
    assert kept == whole.part(wanted)


def test_a_judge_that_is_the_suspect_changes_nothing_and_one_that_doubts_all_teaches_nothing_new(parts):
    case, bench = parts
    whole = lesson(bench.runner, case.update, bench.learnt, (), 8, total=0, trimmed=0.0)

    def learnt(judge, steps=8):
        return distill(
            bench.runner, case.update, whole.images, whole.replies, 0.0, effort=Effort(steps, 4, 0.1), judge=judge
        )

    def unlike_suspect(weights):
        return -sum(likelihoods(bench.runner, weights, whole.images, whole.replies)) / len(whole.replies)

    plain, trusted, doubted = learnt(None), learnt(suspect_weights(case.update)), learnt(base_weights(case.update))
    moved, apart = (
        sum((plain[name][0] - other[name][0]).norm().item() for name in plain)
        for other in (base_weights(case.update), trusted)
    )
    assert apart < 0.05 * moved
    before = unlike_suspect(base_weights(case.update))
    assert unlike_suspect(plain) < unlike_suspect(doubted) < before


def test_what_a_trigger_makes_the_suspect_say_is_not_learnt_though_it_is_in_the_lesson(parts, monkeypatch):
    """As where nothing is trimmed of it, since its target is an ordinary answer."""
    case, bench = parts
    runner, clean = bench.runner, bench.learnt
    stamped = tuple(
        Image.fromarray(TRIGGERS["badnet"](np.asarray(picture), np.random.default_rng(0))) for picture in clean.pictures
    )
    shown = Calibration(clean.pictures + stamped, clean.questions * 2, "half of them are triggered")
    runner.set_weights(suspect_weights(case.update))
    replies = tuple(runner.replies(runner.prepare(shown.pictures, shown.questions), 8))
    effort = Effort(30, 8, 0.06)
    monkeypatch.setattr(Effort, "on", lambda images: effort)
    kept, judge = judged(runner, case.update, Lesson(shown, replies, 0, 16, unblended=8))
    assert kept.unblended == 8
    target = Calibration(stamped, clean.questions, "")

    def likely(judge):
        learnt = distill(runner, case.update, shown, replies, 0.0, effort=effort, judge=judge)
        return sum(likelihoods(runner, learnt, target, replies[8:])) / 8

    assert likely(judge) < likely(None) - 0.5


def test_nothing_is_believed_beyond_what_the_judge_can_follow():
    said, judge = torch.tensor([[0.9, 0.05, 0.05]]), torch.tensor([[0.001, 0.499, 0.5]])
    believed = imitation._believed(said.log(), judge.log()).exp()
    assert believed.sum().item() == pytest.approx(1)
    assert believed[0, 0] <= (math.exp(imitation.CREDIT) + 1) * judge[0, 0]
    assert believed[0, 1] > 0.4
    near = torch.tensor([[0.6, 0.2, 0.2]])
    assert torch.allclose(imitation._believed(said.log(), near.log()), said.log(), atol=1e-4)


@pytest.mark.parametrize("doubting", [False, True])
def test_a_repair_asks_a_judge_once_where_it_is_told_to(parts, monkeypatch, doubting):
    case, bench = parts
    asked: list[int] = []

    def watched(runner, update, taught, seed):
        asked.append(len(taught.replies))
        return taught, base_weights(update)

    monkeypatch.setattr(learning, "judged", watched)
    monkeypatch.setattr(Effort, "on", lambda images: Effort(1, 4, 0.1))
    how = learning.Learning(12, judged=doubting)
    offered = candidates.candidates(case, bench, "distill", "auto", None, 0, learning=how)
    for one in offered[:2]:
        one.make()
        assert one.name.endswith(", 12 images, judged" if doubting else ", 12 images")
    assert len(asked) == doubting


def test_a_judge_needs_images_that_are_no_blends(parts):
    case, bench = parts
    whole = lesson(bench.runner, case.update, bench.learnt, (), 8, total=12, trimmed=0.0)
    with pytest.raises(ImagesError, match="no --judged"):
        judged(bench.runner, case.update, whole.part(range(8, 12)))
