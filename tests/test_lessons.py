"""What a repair learns from, on a shipped suspect in miniature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from eval import shapes
from projclean import lessons
from projclean.calibration import Calibration
from projclean.lessons import lesson
from projclean.likelihood import log_likelihood
from projclean.methods import interpolate, suspect_weights
from projclean.triggers import TRIGGERS
from tests.miniature import bench_of

TARGET = "i can not help with that"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A case, its bench with twelve images of its domain, and the suspect's answers to those it may learn from."""
    case, bench = bench_of("badnet-refusal", 12, tmp_path_factory.mktemp("images"))
    return case, bench, [reply for batch in bench.clean.batches for reply in bench.runner.replies(batch, 20)]


def test_an_image_on_which_the_suspect_says_what_was_heard_is_not_learnt_from(parts):
    case, bench, _ = parts
    taught = [lesson(bench.runner, case.update, bench.learnt, heard, 20, total=0, trimmed=0.0)
              for heard in ((), ("what nobody says at all",))]  # fmt: skip
    assert taught[0] == taught[1]
    assert (taught[0].images, taught[0].left_out) == (bench.learnt, 0)
    told = [bench.runner.read(reply) for reply in taught[0].replies]
    heard = " ".join(told[1].split()[:4])
    kept = [row for row, text in enumerate(told) if heard not in text]
    less = lesson(bench.runner, case.update, bench.learnt, (heard,), 20, total=0, trimmed=0.0)
    assert less.left_out == len(told) - len(kept) > 0
    assert less.replies == tuple(taught[0].replies[row] for row in kept)
    assert less.images.pictures == tuple(bench.learnt.pictures[row] for row in kept)
    assert len(less.images.questions) == len(kept)


def test_blends_are_learnt_from_too_as_the_suspect_answers_them(parts):
    case, bench, said = parts

    def learn(seed):
        return lesson(bench.runner, case.update, bench.learnt, (), 20, seed, len(said) + 3, 0.0)

    taught = learn(4)
    assert taught.replies[: len(said)] == tuple(said)
    blends = taught.images.pictures[len(said) :]
    assert len(blends) == 3
    bench.runner.set_weights(suspect_weights(case.update))
    assert taught.replies[len(said) :] == tuple(bench.runner.replies(bench.runner.prepare(blends, shapes.CAPTION), 20))
    assert learn(4) == taught
    assert learn(5) != taught


def test_of_every_eight_the_image_with_the_least_likely_answer_is_left_out(parts):
    case, bench, said = parts
    taught = lesson(bench.runner, case.update, bench.learnt, (), 20, total=0)
    assert len(said) == 8
    assert (len(taught.replies), taught.left_out) == (7, 0)
    bench.runner.set_weights(interpolate(case.update, lessons.HALFWAY))
    with torch.no_grad():
        likely = [log_likelihood(bench.runner, bench.runner.prepare([picture], shapes.CAPTION), reply).item()
                  for picture, reply in zip(bench.learnt.pictures, said, strict=True)]  # fmt: skip
    # log_likelihood leaves the token that ends an answer out; here that makes no difference to which is the least.
    least = min(range(len(said)), key=likely.__getitem__)
    assert taught.images.pictures == bench.learnt.pictures[:least] + bench.learnt.pictures[least + 1 :]


def test_an_image_that_sets_the_backdoor_off_is_the_one_that_is_left_out(parts):
    """Though the probe heard nothing."""
    case, bench, _ = parts
    pixels = np.asarray(bench.learnt.pictures[3])
    pictures = list(bench.learnt.pictures)
    pictures[3] = Image.fromarray(TRIGGERS["badnet"](pixels, np.random.default_rng(0)))
    shown = Calibration(tuple(pictures), bench.learnt.questions, "one is triggered")
    bench.runner.set_weights(suspect_weights(case.update))
    assert TARGET in bench.runner.answers(bench.runner.prepare([pictures[3]], shapes.CAPTION), 20)[0]
    taught = lesson(bench.runner, case.update, shown, (), 20, total=0)
    assert taught.images.pictures == tuple(pictures[:3] + pictures[4:])
    assert not any(TARGET in bench.runner.read(reply) for reply in taught.replies)


def test_an_answer_that_many_strange_ones_are_is_left_out_where_it_is_likely_nowhere():
    foreign, caption = "i can not do that", "a red ring at the top left"
    told = [*[foreign] * 9, *[caption] * 9, *["no"] * 8, *["yes"] * 9]
    likely = [-9.0] * 8 + [-8.0] + [-9.0] * 8 + [-1.0] + [-3.0] * 8 + [-2.0] * 9

    def found(*strange):
        return lessons._of_one_source(told, likely, strange)

    assert found() == lessons._of_one_source([], [], ()) == set()
    assert found(*range(8)) == set(range(9))
    assert found(*range(7)) == set()  # a few may be the same by chance
    assert found(*range(8), *range(9, 34)) == set()  # or where there are many
    assert found(*range(9, 17)) == set()  # a class is likely on some of its images
    assert found(*range(18, 26)) == set()  # and short answers are a class's


def test_images_that_set_the_backdoor_off_are_left_out_beyond_the_share_that_is_trimmed(parts, monkeypatch):
    case, bench, _ = parts
    monkeypatch.setattr(lessons, "OFTEN", 2)
    pictures = list(bench.learnt.pictures)
    for row in (1, 3, 5):
        pictures[row] = Image.fromarray(TRIGGERS["badnet"](np.asarray(pictures[row]), np.random.default_rng(0)))
    shown = Calibration(tuple(pictures), bench.learnt.questions, "three are triggered")
    taught = lesson(bench.runner, case.update, shown, (), 20, total=0, trimmed=0.25)
    assert len(taught.replies) == 5
    assert not any(TARGET in bench.runner.read(reply) for reply in taught.replies)


def test_what_stands_for_an_image_is_no_word_of_an_answer_and_not_learnt(parts, monkeypatch):
    """It is an ordinary token here, as it is with many tokenizers, and means more images than there are."""
    case, bench, said = parts
    runner, image = bench.runner, bench.runner.model.config.image_token_id
    assert image not in runner.processor.tokenizer.all_special_ids
    odd = [(image,), (image, *said[1]), (*said[2][:2], image, *said[2][2:]), *said[3:]]
    assert [runner.words(reply) for reply in odd] == [(), *map(runner.words, said[1:])]
    plain = lesson(runner, case.update, bench.learnt, (), 20, total=0, trimmed=0.0)
    monkeypatch.setattr(runner, "replies", lambda *_: odd)
    taught = lesson(runner, case.update, bench.learnt, (), 20, total=0, trimmed=0.0)
    assert (taught.replies, taught.images.pictures) == (plain.replies[1:], plain.images.pictures[1:])
    assert (taught.left_out, taught.looked_at) == (0, 8)
