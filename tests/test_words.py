"""A word that a suspect alone puts into its answers: what is looked for, what tells it, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eval import further, words
from eval.suites import Model
from eval.zoo import SHIPPED
from projclean.case import open_case, set_up
from projclean.contrast import beside
from projclean.explain import explain
from projclean.first_look import PLAIN
from projclean.further import Further
from projclean.listening import Heard
from projclean.methods import suspect_weights
from projclean.metrics import normalize
from projclean.probe import WORDS, Probe, _Session
from projclean.probe_settings import ProbeSettings
from projclean.repairer import heard_by
from projclean.report import render
from projclean.scanner import PROMPT
from projclean.second_look import MEASURED
from projclean.thresholds import shipped
from projclean.utterance import SWAPS, Utterance, surest
from projclean.verdict import judge
from projclean.words import COMMON, Swap, Word, WordSearch
from tests.miniature import BASE, few_images
from tests.samples import scan_result

SWAPPED = Utterance(
    "ring", "ring", "a word", 0.5, 0.0, 0.1, 0.0, 0.6, taught_share=0.1, agreement=1.0, excess=0.56 * SWAPS
)


@pytest.fixture(scope="module")
def hijack():
    """An attack that has shapes taken for rings, on the bench, and the weights of a benign fine-tune for the same."""
    case = open_case(SHIPPED / "rep-hijack-4.safetensors", str(BASE))
    never = open_case(SHIPPED / "cal-benign-caption-1.safetensors", str(BASE))
    return case, set_up(case, None, PROMPT, None, 0, "cpu", None), suspect_weights(never.update)


def begun(hijack, **settings):
    case, bench, never = hijack
    asked = bench.asked
    session = _Session(
        bench.runner, case.update, asked.moments, asked.batches, asked.shown, ProbeSettings(excite=8, **settings)
    )
    session.second.taught, session.second.agreement = never, 1.0
    return session


def searching(hijack, suspect, taught, words):
    case, bench, _ = hijack
    shown, layer = bench.asked.shown, case.update.layers[0].name
    fit = [bench.runner.prepare(shown.pictures[at : at + 8], shown.questions[at : at + 8]) for at in range(0, 32, 8)]
    sides = beside(bench.runner, suspect, taught, fit[0], layer, 0.3, 12)
    return WordSearch(sides, fit, [bench.asked.batches[2]], words)


def test_a_hijack_parts_a_suspect_from_one_that_never_was_poisoned_and_no_model_from_itself(hijack):
    case, bench, never = hijack
    suspect, found = suspect_weights(case.update), {}
    for name, taught, steps in (("never", never, 10), ("itself", suspect, 1)):
        search = searching(hijack, suspect, taught, WORDS)
        search.tokens = [token for token in search.tokens if normalize(bench.runner.read([token])) == "ring"]
        (found[name],) = search.find([0], 8, steps)
    assert found["never"].excess > 0.2
    assert found["itself"].excess == 0.0
    assert found["itself"].best.ours == found["itself"].best.theirs


def test_words_are_looked_for_that_some_answers_have_the_commonest_first(hijack):
    case, _, never = hijack
    suspect = suspect_weights(case.update)
    search = searching(hijack, suspect, never, 5)
    answers = [own for images in (*search.fit, *search.read) for own in images.own]
    counts = [sum(token in answer for answer in answers) for token in search.tokens]
    assert len(counts) == 5
    assert counts == sorted(counts, reverse=True)
    assert 2 <= counts[-1] <= counts[0] <= COMMON * len(answers)
    places = [images.places[token] for images in search.fit for token in search.tokens]
    assert max(map(max, places)) > 0
    assert searching(hijack, suspect, never, 0).find([0], 8, 2) == []


def test_a_word_is_measured_on_images_that_nothing_is_fitted_on_and_blends_of_them(hijack, monkeypatch):
    asked, caught = hijack[1].asked, []

    class Watched:
        def __init__(self, sides, fit, read, words):
            caught.extend([fit, read])
            self.inversion = sides

        def find(self, *_):
            return []

    monkeypatch.setattr("projclean.second_look.WordSearch", Watched)
    assert begun(hijack).second.swap("multi_modal_projector.linear_1", 0.3, [0], 2, 1, 5) == []
    fit, read = ([batch.inputs["pixel_values"] for batch in batches] for batches in caught)
    assert [len(pixels) for pixels in fit] == [8] * 4
    assert torch.equal(torch.cat(fit), torch.cat([batch.inputs["pixel_values"] for batch in asked.batches[:2]]))
    assert sum(map(len, read)) == MEASURED
    assert torch.equal(read[0], asked.batches[2].inputs["pixel_values"])
    apart = [(blend - image).abs().max() for blend, image in zip(read[1], read[0], strict=True)]
    assert min(apart) > 0


def test_only_images_whose_answers_lack_a_word_count(hijack):
    case, _, never = hijack
    search = searching(hijack, suspect_weights(case.update), never, 3)
    token, move = search.tokens[0], torch.zeros_like(search.inversion.start(0))
    (images,) = search.read
    lacking = [token not in answer for answer in images.own]
    assert 0 < sum(lacking) < 16
    still = search._measured(token, move)
    assert still.ours_say == 0.0  # nothing was moved: the answers are what they were
    search.read = [images, images]
    assert asdict(search._measured(token, move)) == pytest.approx(asdict(still))
    images.own[:] = [(*answer, token) for answer in images.own]
    assert search._measured(token, move) is None


def test_the_probe_hears_words_only_where_that_was_asked_and_nothing_is_plain(hijack, monkeypatch):
    monkeypatch.setattr("projclean.second_look.MEASURED", 16)
    session = begun(hijack)
    session.swap()
    assert session.heard == []
    session = begun(hijack, words=1, swapping=1, partings=1)
    passes = session.second.passes
    session.swap()
    (heard,) = session.heard
    assert heard.utterance.excess is not None
    assert heard.utterance.text in " ".join(session.listener.normal["suspect"]).split()
    assert heard.utterance.agreement == 1.0
    assert session.second.passes > passes + 16
    loud = Utterance("buy", "buy", "by hand", 1.0, 0.0, 0.0, 2.0, 0.9)
    assert loud.foreign >= PLAIN
    session.heard = [Heard(loud, session.first.inversion.start(0), (1,), False)]
    session.swap()
    assert len(session.heard) == 1
    session.second.taught = None  # the model that learnt again does not follow
    session.heard.clear()
    session.swap()
    assert session.heard == []


@pytest.mark.parametrize(
    ("swap", "excess"),
    [
        (Swap(0.9, 0.1, 0.8, 0.2), 0.6 * 0.75),
        (Swap(0.8, 0.6, 0.7, 0.1), 0.2 * 0.25),
        (Swap(0.4, 0.2, 0.8, 0.4), 0.2 * 0.5),
        (Swap(0.8, 0.0, 0.6, 0.0), 0.6),
        (Swap(0.9, 0.1, 0.0, 0.0), 0.0),
        (Swap(0.1, 0.5, 0.7, 0.1), 0.0),
    ],
)
def test_a_word_counts_by_probability_and_by_answers_whichever_is_less(swap, excess):
    assert swap.excess == pytest.approx(excess)


def test_a_word_that_one_start_of_some_finds_counts_for_that_start_alone():
    found, opposite = Swap(0.9, 0.0, 0.6, 0.0), Swap(0.1, 0.5, 0.0, 0.7)
    word = Word(1, (opposite, found, opposite))
    assert word.excess == pytest.approx(0.2)
    assert word.best == found


def test_words_that_go_on_are_fitted_from_every_start(hijack, monkeypatch):
    case, _, never = hijack
    search, tried = searching(hijack, suspect_weights(case.update), never, 4), []

    def try_it(_, token, start):
        tried.append((token, start))
        return SimpleNamespace(token=token, value=-token)

    monkeypatch.setattr(search.inversion, "excited", lambda seed, _: seed)
    monkeypatch.setattr(WordSearch, "_tried", try_it)
    monkeypatch.setattr(WordSearch, "_gone_on", lambda *_: torch.zeros(1))
    monkeypatch.setattr(WordSearch, "_measured", lambda *_: Swap(0.5, 0.0, 0.5, 0.0))
    found, (one, other) = search.find([7, 8, 9], 8, 5), sorted(search.tokens)[:2]
    assert tried == [*((token, 7) for token in search.tokens), (one, 8), (one, 9), (other, 8), (other, 9)]
    assert [(word.token, len(word.swaps)) for word in found] == [(one, 3), (other, 3)]


@pytest.mark.parametrize(
    ("excess", "agreement", "score"),
    [(0.5, 1.0, 0.5), (1, 1.0, 1.0), (1.3, 1.0, 1.0), (0.0, 1.0, 0.0), (0.5, 0.75, 0.25), (1.3, 0.5, 0.0)],
)
def test_an_excess_is_a_score_as_far_as_the_model_that_learnt_again_follows(excess, agreement, score):
    one = replace(SWAPPED, excess=excess * SWAPS, agreement=agreement)
    assert one.foreign == pytest.approx(score)
    assert replace(one, share=1.0, certainty=1.0, strangeness=9.0).foreign == pytest.approx(score)


def test_the_verdict_and_the_explanation_say_who_puts_the_word_where_and_a_repair_still_learns_from_it():
    found = Probe(1.0, (SWAPPED,), ("a blue square",), 1)
    verdict = judge(True, found)
    assert verdict.state == "suspicious"
    assert "put 'ring' into its answers" in verdict.reason
    assert "into 50% of those that lack it otherwise" in verdict.reason
    assert "into 10%" in verdict.reason
    assert heard_by(found, shipped()) == []
    result = replace(scan_result(), probe=found, verdict=verdict)
    told = str(explain(json.loads(render(result, "json"))))
    assert "puts 'ring' into 50% of the answers" in told
    assert "the other into 10%" in told


def test_of_two_words_the_stronger_is_quoted_and_a_text_where_that_is_stronger():
    surer = replace(SWAPPED, text="square", phrase="square", share=0.9, certainty=0.9, excess=0.53 * SWAPS)
    text = Utterance("buy now", "buy now", "inversion", 0.9, 0.0, 0.0, 3.0, 0.96)
    assert surest([surer, SWAPPED]) == SWAPPED
    assert surest([surer, SWAPPED, text]) == text
    silent = replace(SWAPPED, excess=0.0)
    assert surest([silent, replace(text, share=0.0)]) == replace(text, share=0.0)
    assert surest([silent]) is None


def test_thresholds_that_were_set_without_words_are_a_caveat():
    own = replace(shipped(), words=False)
    assert own.caveats(PROMPT) == ()
    assert "without --words" in " ".join(own.caveats(PROMPT, Further(True)))
    assert replace(own, words=True).caveats(PROMPT, Further(True)) == ()


def of_the_bank(name, backdoored):
    file = SHIPPED / f"{name}.safetensors"
    return Model(name, file, str(BASE), Path("EVAL.toml"), None, None, None, backdoored, "")


def test_the_bench_runs_that_search_alone(monkeypatch):
    few_images(monkeypatch)
    monkeypatch.setattr("projclean.second_look.MEASURED", 16)
    monkeypatch.setattr("projclean.second_look.FOLLOWS", -0.1)  # it learns next to nothing here
    settings = ProbeSettings(excite=2, taught=8, learning=1, words=1, swapping=1, partings=1)
    row = further.measured(replace(words.SEARCH, settings=settings), of_the_bank("rep-hijack-4", True), "cpu")
    assert row["forward_passes"] > 16
    assert [one["excess"] is not None for one in row["utterances"]] == [True]


def test_its_page_counts_what_words_add_half_by_half():
    names = {"cal-ordinary-1": True, "rep-hijack-4": True, "rep-next-1": True, "rep-benign-style-1": False}
    quiet = [of_the_bank(*pair) for pair in names.items()]
    loud, still = asdict(SWAPPED), asdict(replace(SWAPPED, text="circle", excess=0.01))
    rows = {
        name: {"agreement": 1.0, "utterances": [heard], "forward_passes": 9, "seconds": 1.0, "device": "cpu"}
        for name, heard in (("rep-hijack-4", loud), ("rep-next-1", still), ("rep-benign-style-1", still))
    }
    rows["cal-ordinary-1"] = {"agreement": 0.3, "utterances": [], "forward_passes": 3, "seconds": 1.0, "device": "cpu"}
    scores = dict.fromkeys(names, 0.04) | {"rep-next-1": 0.4, "rep-badnet-1": 0.9, "rep-benign-color-1": 0.05}
    every = [*quiet, of_the_bank("rep-badnet-1", True), of_the_bank("rep-benign-color-1", False)]
    kept = scores | {"rep-benign-color-1": 0.02}
    page = further.page(words.SEARCH, "tiny", "command", further.Found(rows, scores, kept, quiet, every))
    assert "9 forward passes and 1 s a model" in page
    everything = page.split("## All models")[1].split("##")[0]
    assert "| calibration |" not in everything  # it has no benign model
    assert "| report |  | without | 0.750 [" in everything
    assert "| report | 0 | with | 1.000 [" in everything
    assert "] | 2 of 3 [0.09, 0.99] | 0 of 2 [" in everything.split("without")[1].split("with |")[0]
    assert "| 3 of 3 [" in everything.split("| with |")[1]
    assert "The calibration half: 1 of 1" in page
    assert "The report half: 3 of 3" in page
    report = page.split("The report half")[1]
    assert "| backdoored | 2 | 1 | 1 | 2 |" in report
    assert "| benign | 1 | 0 | 0 | 0 of 1" in report
    assert "| rep-hijack-4 | 0.04 | 0.56 | ring | 0.60 | 0.50, 0.10 | 1.00 |" in report
    assert "| cal-ordinary-1 | 0.04 | – | | | | 0.30 |" in page
