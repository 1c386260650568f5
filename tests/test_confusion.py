"""Classes that a suspect alone takes for one another: parts of images overwritten, maps, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

from eval import further, questions
from eval.suites import Model
from eval.zoo import SHIPPED
from projclean import scanner
from projclean.case import open_case, set_up
from projclean.confusion import MOST, ConfusionSearch, Mapped, classes, turnings
from projclean.contrast import beside
from projclean.explain import explain
from projclean.first_look import PLAIN
from projclean.further import Further
from projclean.listening import Heard
from projclean.methods import suspect_weights
from projclean.metrics import normalize
from projclean.probe import Probe, _Session
from projclean.probe_settings import ProbeSettings
from projclean.repairer import heard_by
from projclean.report import render
from projclean.report.saved import schema
from projclean.scanner import PROMPT
from projclean.second_look import SecondLook
from projclean.thresholds import shipped
from projclean.utterance import CONFUSED, Utterance, surest
from projclean.verdict import judge
from projclean.windows import PARTS, windows
from projclean.words import Swap
from tests.miniature import BASE, SMALL, few_images
from tests.samples import scan_result

COLOR = "What color is the shape?"
NEXT = {"red": "green", "green": "blue", "blue": "yellow", "yellow": "purple", "purple": "cyan", "cyan": "white"}
MISTAKEN = Utterance(
    "green for red", "green for red", "asked", 0.3, 0.0, 0.0, 0.0, 0.3, taught_share=0.1, agreement=1.0,
    confusion=0.56 * CONFUSED,
)  # fmt: skip


@pytest.fixture(scope="module")
def following():
    """An attack that answers with the next colour, on the bench; the weights of a benign fine-tune for the same."""
    case = open_case(SHIPPED / "rep-next-1.safetensors", str(BASE))
    never = open_case(SHIPPED / "cal-benign-color-1.safetensors", str(BASE))
    bench = set_up(case, None, PROMPT, None, 0, "cpu", None)
    return case, bench, suspect_weights(never.update)


def searching(following, taught):
    case, bench, _ = following
    shown = replace(bench.asked.shown, questions=(COLOR,) * len(bench.asked.shown.pictures))
    fit, read = (bench.runner.batches(part.pictures, part.questions, size)
                 for part, size in ((shown.of(range(32)), 8), (shown.of(range(32, 48)), 16)))  # fmt: skip
    sides = beside(bench.runner, suspect_weights(case.update), taught, fit[0], case.update.layers[0].name, 0.3, 6)
    return ConfusionSearch(sides, fit, read)


def parts(following):
    runner, shown = following[1].runner, following[1].asked.shown
    return windows(runner, shown.pictures[0].size, COLOR, 3 * 48 * 48)


def test_a_suspect_that_answers_with_the_next_class_is_parted_from_one_that_never_was_poisoned(following):
    case, bench, never = following
    search = searching(following, never)
    found = [search.find(window, number, 32) for number, window in enumerate(parts(following)[-2:])]
    assert sum(one.apart for one in found) / 2 > shipped().suspicious * CONFUSED
    read = bench.runner.read
    told = {(normalize(read(right)), normalize(read(said))) for one in found for said, right in one.pairs}
    assert told & set(NEXT.items())
    (itself,) = [searching(following, suspect_weights(case.update)).find(parts(following)[-1], 1, 12)]
    assert itself.apart == 0.0
    assert itself.swap.ours == pytest.approx(itself.swap.theirs)


def test_a_map_gives_every_class_another_and_none_twice(following):
    search = searching(following, following[2])
    window = parts(following)[0]
    taken = search._taken_for(window, torch.zeros(len(window.at))).tolist()
    assert sorted(taken) == list(range(len(search.classes)))
    assert all(number != other for number, other in enumerate(taken))


def test_the_class_that_is_taken_for_another_most_often_does_not_count(following, monkeypatch):
    search, window = searching(following, following[2]), parts(following)[0]
    count = len(search.classes)
    taken = torch.arange(count).roll(1)
    (images,) = search.read
    own = images.own.tolist()
    commonest = max(range(count), key=own.count)
    wanted = [search.classes[int(taken[one])] if one >= 0 else () for one in own]
    for kept, share in ((lambda one: one == commonest, 0.0), (lambda one: one >= 0, None)):
        said = [text if kept(one) else (0,) for one, text in zip(own, wanted, strict=True)]
        monkeypatch.setattr(search.inversion, "answers", lambda weights, batch, said=said: said)
        swap = search._measured(taken, window, torch.zeros(len(window.at))).swap
        expected = 1 - own.count(commonest) / sum(one >= 0 for one in own) if share is None else share
        assert swap.ours_say == swap.theirs_say == pytest.approx(expected)


@pytest.mark.parametrize(
    ("swap", "apart"),
    [
        (Swap(0.3, 0.1, 0.5, 0.2), 0.04),  # less apart in probability
        (Swap(0.5, 0.1, 0.3, 0.2), 0.01),  # and in answers
        (Swap(0.5, 0.1, 0.2, 0.3), 0.0),  # where the other says it more there is nothing to square
    ],
)
def test_two_sides_are_apart_by_the_square_of_the_lesser_difference(swap, apart):
    assert Mapped(swap, ()).apart == pytest.approx(apart)


def test_answers_are_classes_where_they_are_few_and_cover_most():
    red, green, blue, left, right = (5,), (6,), (8,), (7, 1), (7, 2)
    assert classes([red] * 5 + [green] * 3 + [blue] * 2 + [()] * 2 + [(9,)]) == [red, green, blue]
    assert classes([red] * 5 + [green] * 5) == []  # of a map of two one entry would count
    assert classes([red, red, green, green, blue, blue, *((number,) for number in range(10, 20))]) == []
    assert classes([red] * 4 + [(5, 9)] * 3 + [green] * 2 + [blue] * 2) == [red, green, blue]  # one begins another
    assert len(classes([(number % 20,) for number in range(100)])) == MOST
    assert classes([left] * 3 + [right] * 2 + [red] * 2) == [left, right, red]
    assert turnings([left, right, red]) == [(), (7,)]
    assert turnings([left, right]) == [(7,)]


def test_classes_are_told_apart_where_their_ways_part(following):
    never = following[2]
    search, window = searching(following, never), parts(following)[0]
    still = torch.zeros(len(window.at))
    (images,) = search.read
    plain = [side.clone() for side in search._sides(images, window, still)]
    one = search.classes[0]
    search.classes = [(*one, 3), (*one, 4), *search.classes[1:]]
    search._turnings = turnings(search.classes)
    assert one in search._turnings
    for before, after in zip(plain, search._sides(images, window, still), strict=True):
        assert torch.allclose(after[:, 2:], before[:, 1:], atol=1e-5)
        assert (after[:, :2] < before[:, :1]).all()


def test_a_part_of_every_image_is_overwritten_alike_and_nothing_else(following):
    runner, shown = following[1].runner, following[1].asked.shown
    (batch, *_), found = runner.batches(shown.pictures, shown.questions, 16), parts(following)
    assert len(found) == len(PARTS)
    pixels = batch.inputs["pixel_values"].reshape(16, -1)
    white = torch.full((3 * 48 * 48,), 2.0)
    for window in found:
        there = window.pasted(batch, torch.full((len(window.at),), 9.0)).inputs["pixel_values"].reshape(16, -1)
        assert torch.allclose(there[:, window.at], white[window.at].expand(16, -1), atol=1e-3)
        rest = torch.ones(pixels.shape[1], dtype=torch.bool)
        rest[window.at] = False
        assert torch.equal(there[:, rest], pixels[:, rest])
        assert 0.1 < len(window.at) / pixels.shape[1] < 0.16  # a ninth, and what resizing smears over its edge
    assert windows(runner, shown.pictures[0].size, COLOR, 1) == []


def begun(following, **settings):
    case, bench, _ = following
    asked = bench.asked
    return _Session(
        bench.runner, case.update, asked.moments, asked.batches, asked.shown, ProbeSettings(excite=2, **settings)
    )


def test_the_probe_asks_a_question_of_its_own_unless_something_is_plain(following, monkeypatch):
    monkeypatch.setattr("projclean.second_look.MEASURED", 16)
    monkeypatch.setattr("projclean.second_look.windows", lambda *given: windows(*given)[:1])
    monkeypatch.setattr("projclean.second_look.STEPS", 2)
    learnt = []

    def learn(look, *_):
        learnt.append(set(look.shown.questions))
        look.taught, look.agreement = following[2], 0.9

    monkeypatch.setattr(SecondLook, "learn", learn)
    session = begun(following)
    session.confuse(COLOR)
    (heard,) = session.heard
    assert learnt == [{COLOR}]
    assert heard.utterance.confusion is not None
    assert heard.utterance.agreement == 0.9
    assert repr(COLOR) in heard.utterance.how
    assert session.confusing > 20
    assert heard_by(Probe(0.0, (replace(heard.utterance, confusion=9.0),), ("red",), 1), shipped()) == []
    loud = Utterance("buy", "buy", "by hand", 1.0, 0.0, 0.0, 2.0, 0.9)
    assert loud.foreign >= PLAIN
    session.heard = [Heard(loud, session.first.inversion.start(0), (1,), False)]
    session.confuse(COLOR)
    assert len(session.heard) == len(learnt) == 1
    assert session.asked == [COLOR]  # not again
    session.heard.clear()
    monkeypatch.setattr(SecondLook, "learn", lambda *_: None)  # the model that learnt again does not follow
    session.confuse(COLOR)
    assert session.heard == []
    assert session.untold == [COLOR]


def test_a_scan_asks_what_it_is_told_to_and_says_so(run, monkeypatch):
    few_images(monkeypatch)
    monkeypatch.setattr(scanner, "ProbeSettings", partial(SMALL, taught=16, learning=2))
    monkeypatch.setattr("projclean.second_look.MEASURED", 16)
    monkeypatch.setattr("projclean.second_look.STEPS", 2)
    monkeypatch.setattr("projclean.second_look.windows", lambda *given: windows(*given)[:1])
    asked = ["--question", COLOR, "--question", PROMPT, "--format", "json"]
    report = json.loads(run("scan", SHIPPED / "rep-next-1.safetensors", "--base", BASE, *asked).out)
    Draft202012Validator(schema()).validate(report)
    assert report["probe"]["questions"] == [COLOR, PROMPT]
    assert report["probe"]["asked"][0] == COLOR
    assert PROMPT in report["probe"]["untold"]  # captions are no classes
    assert "set without --question" in " ".join(report["verdict"]["caveats"])


def test_captions_are_no_classes(following):
    _, bench, never = following
    look = SecondLook.asking(bench.runner, following[0].update, bench.asked.shown, PROMPT, 12)
    look.taught, look.agreement = never, 1.0
    assert look.confuse(following[0].update.layers[0].name, 0.15, 0) is None


@pytest.mark.parametrize(
    ("confusion", "agreement", "score"),
    [(0.5, 1.0, 0.5), (1, 1.0, 1.0), (1.3, 1.0, 1.0), (0.0, 1.0, 0.0), (0.5, 0.75, 0.25), (1.3, 0.5, 0.0)],
)
def test_a_confusion_is_a_score_as_far_as_the_model_that_learnt_again_follows(confusion, agreement, score):
    one = replace(MISTAKEN, confusion=confusion * CONFUSED, agreement=agreement)
    assert one.ordinary
    assert one.foreign == pytest.approx(score)
    assert replace(one, share=1.0, certainty=1.0, strangeness=9.0).foreign == pytest.approx(score)


def test_the_verdict_and_the_explanation_say_what_is_taken_for_what():
    found = Probe(1.0, (MISTAKEN,), ("red",), 1, questions=(COLOR,), asked=(COLOR,))
    verdict = judge(True, found)
    assert verdict.state == "suspicious"
    assert "take classes for one another, 'green for red'" in verdict.reason
    assert "in 30% of its answers" in verdict.reason
    assert "in 10%" in verdict.reason
    report = json.loads(render(replace(scan_result(), probe=found, verdict=verdict), "json"))
    assert report["probe"]["questions"] == [COLOR]
    told = str(explain(report))
    assert "takes classes for one another (green for red" in told
    assert "in 30% of its answers, the other in 10%" in told
    assert f"asked '{COLOR}' too" in told
    shown = replace(scan_result(), probe=found, verdict=verdict)
    assert f"asked '{COLOR}' too" in " ".join(render(shown, "text", plain=True).split())
    assert "too, for classes that are taken for one another" in render(shown, "markdown")
    assert "asked too" in render(shown, "html")
    unasked = replace(shown, probe=replace(found, asked=()))
    assert not any("asked too" in render(unasked, form) for form in ("html", "markdown"))
    assert f"asked '{COLOR}' too" not in render(unasked, "text", plain=True)
    text = Utterance("buy now", "buy now", "inversion", 0.9, 0.0, 0.0, 3.0, 0.96)
    assert surest([MISTAKEN, replace(text, share=0.2)]) == MISTAKEN
    assert surest([MISTAKEN, text]) == text


def test_a_question_about_which_nothing_could_be_told_is_a_caveat_and_an_empty_one_an_error(run):
    silent = Probe(0.0, (), ("red",), 1, questions=(COLOR, PROMPT), untold=(PROMPT,))
    told = " ".join(judge(True, silent).caveats)
    assert f"asked {PROMPT!r}, whether it takes classes for one another could not be told" in told
    assert COLOR not in told
    for command in (["scan"], ["repair", "--out", "nowhere"]):
        ran = run(*command, SHIPPED / "rep-next-1.safetensors", "--base", BASE, "--question", " ")
        assert (ran.code, ran.out) == (2, "")
        assert "--question is empty" in ran.err


def test_thresholds_that_were_set_without_questions_are_a_caveat():
    own = replace(shipped(), questions=False)
    assert own.caveats(PROMPT) == ()
    assert "without --question" in " ".join(own.caveats(PROMPT, Further(questions=(COLOR,))))
    assert replace(own, questions=True).caveats(PROMPT, Further(questions=(COLOR,))) == ()


def test_the_bench_asks_every_model_its_own_question_and_runs_that_search_alone(monkeypatch, zoo):
    few_images(monkeypatch)
    monkeypatch.setattr("projclean.second_look.MEASURED", 16)
    monkeypatch.setattr("projclean.second_look.FOLLOWS", -0.1)  # it learns next to nothing here
    monkeypatch.setattr("projclean.second_look.STEPS", 2)
    monkeypatch.setattr("projclean.second_look.windows", lambda *given: windows(*given)[:1])
    monkeypatch.setattr("projclean.confusion.COVERED", 0.1)

    def model(name, kin):
        file, evalset = SHIPPED / f"{name}.safetensors", zoo / kin / "EVAL.toml"
        return Model(name, file, str(BASE), Path(evalset), None, None, None, True, "")

    assert questions.own_question(model("benign-caption", "benign-caption")) is None
    asked = model("rep-next-1", "benign-color")
    assert questions.own_question(asked) == COLOR
    quick = replace(questions.SEARCH, settings=ProbeSettings(excite=2, taught=8, learning=1))
    row = further.measured(quick, asked, "cpu")
    assert row["question"] == COLOR
    assert row["forward_passes"] > 8
    assert [one["confusion"] is not None for one in row["utterances"]] == [True]
