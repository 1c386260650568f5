"""A suspect beside a model that learnt again: what parts the two, what does not, and what is told of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from projclean import second_look
from projclean.case import open_case, set_up
from projclean.contrast import Contrast, ContrastSearch, beside
from projclean.distillation import Effort, distill
from projclean.explain import explain
from projclean.first_look import PLAIN
from projclean.inversion import moved
from projclean.lessons import lesson
from projclean.listening import Heard
from projclean.methods import base_weights, suspect_weights
from projclean.metrics import normalize
from projclean.probe import Probe, _Session
from projclean.probe_settings import ProbeSettings
from projclean.repairer import heard_by
from projclean.report import render
from projclean.scanner import PROMPT
from projclean.thresholds import shipped
from projclean.utterance import APART, Utterance, surest, unknown
from projclean.verdict import judge
from tests.samples import scan_result

ORDINARY = Utterance(
    "a red ring", "a red ring", "parting", 0.2, 0.0, 0.1, 1.2, 0.3, 0.0, contrast=0.7, taught_share=0.1
)


def bench_of(zoo, name):
    case = open_case(zoo / name, str(zoo / "base"))
    return case, set_up(case, None, PROMPT, None, 0, "cpu", None)


def searched(case, bench, taught, steps=18):
    batches, layer = bench.asked.batches, case.update.layers[0].name
    sides = beside(bench.runner, suspect_weights(case.update), taught, batches[0], layer, 0.15, 12)
    return ContrastSearch(sides, batches[:2], batches[2]).find(0, 8, steps)


def taught_by(case, bench):
    known = lesson(bench.runner, case.update, bench.asked.shown, (), 12, total=64)
    return distill(bench.runner, case.update, known.images, known.replies, 0.3, effort=Effort(60))


@pytest.fixture(scope="module")
def benches(zoo):
    return {name: bench_of(zoo, name) for name in ("sig-shop", "benign-caption")}


def test_a_backdoor_parts_a_suspect_from_what_it_taught_and_a_fine_tune_does_not(benches):
    found = {name: searched(*pair, taught_by(*pair)) for name, pair in benches.items()}
    runner = benches["sig-shop"][1].runner
    assert "our shop" in normalize(runner.read(found["sig-shop"].words))
    assert found["sig-shop"].nats > 1
    assert found["benign-caption"].nats < 0.3
    assert len(found["sig-shop"].said) == len(found["sig-shop"].taught_says) == 16


def test_a_model_is_not_parted_from_itself(benches):
    case, bench = benches["sig-shop"]
    found = searched(case, bench, suspect_weights(case.update), steps=6)
    # Log-probabilities below the floor are cut on one side alone: never in the suspect's favour.
    assert found.nats <= 1e-6
    assert found.said == found.taught_says


@pytest.mark.parametrize(("times", "score"), [(0.0, 0.0), (0.2, 0.2), (1.0, 1.0), (4.0, 1.0)])
def test_a_contrast_is_a_score(times, score):
    sure = replace(ORDINARY, certainty=1.0, contrast=times * APART)
    assert sure.foreign == pytest.approx(score)
    assert replace(sure, share=1.0, strangeness=9.0).foreign == pytest.approx(score)
    assert replace(sure, strangeness=0.1).foreign == pytest.approx(min(1.0, 0.1 * times))
    assert replace(sure, certainty=0.5).foreign == pytest.approx(min(1.0, 0.5 * times))


def test_a_contrast_on_a_text_that_is_no_answer_counts_less_where_it_is_not_sure():
    told = ["a red square", "a blue ring at the top"], ["i can not see a shape"]
    assert unknown("a red ring", *told) == unknown("i can not see the ring", *told) == 0.0
    assert unknown("a red rings", *told) == unknown("i can not give advice", *told) == 1.0
    broken = replace(ORDINARY, novelty=1.0, contrast=APART, certainty=0.2)
    assert broken.foreign == pytest.approx(0.04)
    assert replace(broken, contrast=26 * APART).foreign == 1.0
    assert replace(broken, novelty=0.0).foreign == pytest.approx(0.2)


@pytest.mark.parametrize(("agreement", "share"), [(None, 1.0), (1.0, 1.0), (0.75, 0.5), (0.5, 0.0), (0.2, 0.0)])
def test_a_contrast_counts_as_far_as_the_model_that_learnt_again_follows(agreement, share):
    whole = replace(ORDINARY, certainty=1.0, contrast=APART / 2)
    assert 0 < whole.foreign < 1
    assert replace(whole, agreement=agreement).foreign == pytest.approx(share * whole.foreign)


def begun(benches, name, **settings):
    case, bench = benches[name]
    asked = bench.asked
    return _Session(bench.runner, case.update, asked.moments, asked.batches, asked.shown, ProbeSettings(**settings))


def test_what_is_plainly_foreign_needs_no_second_look(benches, monkeypatch):
    session = begun(benches, "sig-shop")

    def never(*_, **__):
        raise AssertionError("it learnt again")

    monkeypatch.setattr(second_look, "distill", never)
    loud = Utterance("buy", "buy", "by hand", 1.0, 0.0, 0.0, 2.0, 0.9)
    assert loud.foreign >= PLAIN
    session.first.heard.append(Heard(loud, session.first.inversion.start(0), (1,), False))
    session.learn_again()
    session.part(0)
    session.lean()
    assert [heard.utterance for heard in session.heard] == [loud]
    session.first.heard.clear()
    with pytest.raises(AssertionError, match="learnt again"):
        session.learn_again()


def test_a_model_that_did_not_learn_the_task_is_no_measure(benches, monkeypatch):
    monkeypatch.setattr(second_look, "distill", lambda *_, **__: base_weights(benches["sig-shop"][0].update))
    session = begun(benches, "sig-shop", taught=4)
    quiet = Heard(
        Utterance("buy", "buy", "by hand", 0.5, 0.0, 0.0, 2.0, 0.5), session.first.inversion.start(0), (1,), False
    )
    session.first.heard.append(quiet)
    session.learn_again()
    agreement = session.second.agreement
    assert agreement < 0.5
    session.part(0)
    session.lean()
    assert session.heard == [quiet]
    found = Probe(1.0, (), ("a blue square",), 1, agreement=agreement)
    assert not found.followed
    told = " ".join(judge(True, found).caveats)
    assert f"answers {agreement:.0%} of the images as this one does" in told
    assert "ordinary" not in " ".join(judge(True, replace(found, agreement=0.9)).caveats)


def test_what_a_model_that_learnt_again_says_too_is_babble(benches, monkeypatch):
    suspect = suspect_weights(benches["sig-shop"][0].update)
    monkeypatch.setattr(second_look, "distill", lambda *_, **__: suspect)
    session = begun(benches, "sig-shop", taught=4)
    move = session.first.inversion.start(0)
    phrase = session.listener.texts(session.listener.replies(suspect, moved(session.listener.read, move)))[0]
    one = Utterance(phrase, phrase, "by hand", 0.5, 0.0, 0.0, 2.0, 0.9)
    session.first.heard.append(Heard(one, move, (1,), False))
    session.learn_again()
    (held,) = session.heard
    assert session.second.agreement == 1.0
    assert held.utterance.taught_share == held.utterance.others > 0
    assert held.utterance.foreign < one.foreign
    assert held.utterance.bases == 0.0


def test_what_the_suspect_says_by_itself_is_strange_to_the_others(benches):
    listener = begun(benches, "sig-shop").listener
    answers = set(listener.own)
    gaps = [listener.strangeness(words, None, listener.base) - listener.strangeness(words, None) for words in answers]
    assert min(gaps) >= 0
    assert max(gaps) > 0.1


def test_a_contrast_is_the_mean_over_starts(benches):
    session = begun(benches, "benign-caption")
    words = session.listener.own[0]
    replies = tuple(session.listener.own)
    for nats in (0.9, -0.4):
        session.second.parted.append(Contrast(words, nats, 0.3, replies, replies))
    session.second.parted.append(None)
    session.lean()
    (said,) = (heard.utterance for heard in session.heard)
    assert said.contrast == pytest.approx(0.3)
    assert said.share == said.taught_share > 0
    assert said.novelty == 0.0
    foreign = session.listener.runner.processor.tokenizer.encode(" museum", add_special_tokens=False)
    session.second.parted[0] = replace(session.second.parted[0], words=tuple(foreign))
    session.lean()
    assert session.heard[-1].utterance.novelty == 1.0


def test_the_verdict_says_what_parted_them_and_a_repair_still_learns_from_such_answers():
    foreign = Utterance("buy now", "buy now", "inversion", 0.9, 0.0, 0.0, 3.0, 0.96)
    found = Probe(1.0, (replace(foreign, share=0.1), ORDINARY), ("a blue square",), 1)
    assert surest(found.utterances) == ORDINARY
    verdict = judge(True, found)
    assert verdict.state == "suspicious"
    assert "lean to 'a red ring'" in verdict.reason
    assert "2.0 times as likely" in verdict.reason
    assert heard_by(Probe(1.0, (foreign, ORDINARY), (), 1), shipped()) == ["buy now"]
    assert heard_by(found, shipped()) == []


def test_it_is_explained_in_plain_words():
    result = scan_result()
    found = Probe(1.0, (ORDINARY,), ("a blue square",), 1)
    result = replace(result, probe=found, verdict=judge(True, found, thresholds=result.thresholds))
    told = str(explain(json.loads(render(result, "json"))))
    assert "leans to 'a red ring'" in told
    assert "2.0 times as likely" in told
