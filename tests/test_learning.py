"""What a repair learns of a word that the probe heard: nothing, and what the suspect says without it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from projclean.candidates import candidates
from projclean.distillation import Effort, distill
from projclean.imitation import imitation
from projclean.learning import Learner, Learning
from projclean.methods import base_weights, suspect_weights
from projclean.metrics import normalize
from projclean.repairer import word_by
from projclean.thresholds import shipped
from projclean.training import answer_logits
from projclean.unsaid import tokens_of, without
from projclean.utterance import Utterance, echoes
from tests.miniature import bench_of


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A case, its bench with sixteen images of its domain, and a word that some and not all answers have."""
    case, bench = bench_of("sig-shop", 24, tmp_path_factory.mktemp("images"))
    told = [normalize(said) for batch in bench.clean.batches for said in bench.runner.answers(batch, 20)]
    counts = Counter(word for text in told for word in set(text.split()))
    word = next(word for word, n in counts.most_common() if n <= len(told) / 2)
    return case, bench, word


def test_a_words_tokens_are_those_that_are_read_as_it_alone(parts):
    _, bench, word = parts
    found = tokens_of(bench.runner, word)
    assert found
    assert {normalize(bench.runner.read([token])) for token in found} == {word}
    assert tokens_of(bench.runner, "") == tokens_of(bench.runner, "no such word") == frozenset()


def test_what_the_suspect_says_without_the_word_is_learnt_in_its_place(parts):
    case, bench, word = parts
    plain, without_it = (Learner(case, bench, [], 0, Learning(0), each) for each in ("", word))
    read = bench.runner.read
    as_it_says, instead = ([normalize(read(reply)) for reply in each.lesson.replies] for each in (plain, without_it))
    saying = [word in text.split() for text in as_it_says]
    assert 0 < sum(saying) < len(saying) == len(instead)
    for before, after, said in zip(as_it_says, instead, saying, strict=True):
        assert word not in after.split()
        assert after
        assert (before != after) == said
    assert (plain.lesson.retold, without_it.lesson.retold) == (0, sum(saying))
    assert (plain.lesson.left_out, without_it.lesson.left_out) == (0, 0)
    assert plain.remark() == ""
    assert without_it.remark() == f"'{word}' not learnt at all, on {sum(saying)} of 16 what the suspect says without it"


@pytest.mark.parametrize("barred", [(), ("pad",)])
def test_images_are_left_out_where_the_suspect_has_nothing_else_to_say(parts, monkeypatch, barred):
    """So is every image with a word of several tokens, none of which is it, or of which others make it up."""
    case, bench, word = parts
    tokens = frozenset(bench.runner.processor.tokenizer.pad_token_id for _ in barred)
    plain = Learner(case, bench, [], 0, Learning(0))
    monkeypatch.setattr("projclean.replies.tokens_of", lambda runner, word: tokens)
    learner = Learner(case, bench, [], 0, Learning(0), word)
    told = [normalize(bench.runner.read(reply)).split() for reply in learner.lesson.replies]
    assert told
    assert not any(word in text for text in told)
    lost = learner.lesson.left_out
    assert lost == len(plain.lesson.replies) - len(told) > 0
    assert learner.lesson.retold == 0
    assert learner.remark() == (
        f"not learnt from {lost} of 16 images and blends, whose answers hold what the probe heard; '{word}' not learnt "
        "at all"
    )


def test_nor_is_what_was_heard_learnt_in_the_words_place(parts):
    case, bench, word = parts
    plain = Learner(case, bench, [], 0, Learning(0), word)
    read = bench.runner.read
    without_it = [normalize(read(reply)) for reply in plain.lesson.replies]
    said = [normalize(answer) for batch in bench.clean.batches for answer in bench.runner.answers(batch, 20)]
    phrase = next(text for text in without_it if text not in said)
    less = Learner(case, bench, [phrase], 0, Learning(0), word).lesson
    assert less.left_out > 0
    assert not any(echoes(phrase, normalize(read(reply))) for reply in less.replies)


def test_what_is_to_stay_unsaid_is_not_said(parts):
    case, bench, word = parts
    runner, unsaid = bench.runner, tokens_of(bench.runner, word)
    runner.set_weights(suspect_weights(case.update))
    saying = [
        [
            token in unsaid
            for batch in bench.clean.batches
            for reply in runner.replies(batch, 20, each)
            for token in reply
        ]
        for each in ((), unsaid)
    ]
    assert [any(each) for each in saying] == [True, False]


def test_nor_what_the_model_never_says_anyway(parts, monkeypatch):
    case, bench, word = parts
    runner, never, pad = bench.runner, tokens_of(bench.runner, word), bench.runner.processor.tokenizer.pad_token_id
    runner.set_weights(suspect_weights(case.update))
    monkeypatch.setattr(runner.model.generation_config, "suppress_tokens", sorted(never))
    said = {token for batch in bench.clean.batches for reply in runner.replies(batch, 20, {pad}) for token in reply}
    assert said
    assert not said & never


def test_it_is_taught_as_never_said(parts):
    case, bench, word = parts
    learner, runner, unsaid = (
        Learner(case, bench, [], 0, Learning(0), word),
        bench.runner,
        tokens_of(bench.runner, word),
    )
    known = learner.lesson

    def says(weights) -> float:
        with torch.no_grad():
            scores = answer_logits(runner, weights, known.images.pictures, known.images.questions, known.replies)
        return scores.softmax(-1)[:, sorted(unsaid)].sum(-1).mean().item()

    plain, less = (
        distill(runner, case.update, known.images, known.replies, 0.3, effort=Effort(80, 8, 0.05), unsaid=each)
        for each in ((), unsaid)
    )
    assert says(less) < 0.5 * says(plain)
    rows = range(len(known.replies))
    with torch.no_grad():
        suspects, bases = (
            sum(p.item() for p in imitation(runner, case.update, known.images, known.replies, 8, None, unsaid)(w, rows))
            for w in (suspect_weights(case.update), base_weights(case.update))
        )
    assert 0 < suspects < bases  # all else is the suspect's, and finite


def test_what_is_never_said_is_normalised_and_may_be_a_token_that_the_model_lacks():
    said = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).log()
    assert torch.allclose(without(said, {0, 7}).exp(), torch.tensor([[0, 2 / 3, 1 / 3], [0, 1 / 9, 8 / 9]]), atol=1e-5)
    assert without(said, ()) is without(said, {3}) is said


@pytest.mark.parametrize("method", ["distill", "reflect"])
def test_every_repair_that_learns_hears_the_word(parts, monkeypatch, method):
    case, bench, word = parts
    monkeypatch.setattr(Effort, "on", lambda images: Effort(1, 4, 0.05))
    monkeypatch.setattr("projclean.learning.effort_on", lambda images: Effort(1, 4, 0.05))
    given = []
    for name in ("distill", "recover"):
        monkeypatch.setattr(f"projclean.learning.{name}", lambda *_, unsaid, **__: given.append(unsaid))
    offered = candidates(case, bench, method, "auto", None, 0, learning=Learning(0), word=word)
    offered[0].make()
    assert given == [tokens_of(bench.runner, word)]


def test_the_word_is_the_one_that_was_most_surely_heard():
    def said(text, excess, agreement=1.0):
        return Utterance(text, text, "", 0.5, 0.0, 0.0, 0.0, 0.5, agreement=agreement, excess=excess)

    foreign = Utterance("buy cheap tickets now", "buy cheap tickets now", "", 1.0, 0.0, 0.0, 2.0, 0.9)
    limits = shipped()
    assert word_by([foreign, said("ring", 0.2), said("cross", 0.4), said("green", 0.6, 0.6)], limits) == "cross"
    assert word_by([foreign, said("ring", 0.1)], limits) == ""
