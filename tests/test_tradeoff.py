"""The trade-off: everything a repair tried is probed, measured, in the table and in the picture."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from projclean import explain
from projclean.evalset import load_evalset
from projclean.report import plots, render
from projclean.search import Trial
from projclean.thresholds import Thresholds
from projclean.verdict import NOT_PROVED, Verdict, attacks_at_work
from projclean.verdict import measured as measured_verdict
from tests.samples import repair_result, score

pytestmark = pytest.mark.usefixtures("in_miniature")


def with_scores(**changes):
    """The sample repair, its trials measured: the second was taken."""
    result = repair_result()
    trials = (
        replace(result.trials[0], score=score("rank 1", 88, 60)),
        replace(result.trials[1], score=replace(result.scores[2], model="rank 2")),
    )
    return replace(result, trials=trials, **changes)


@pytest.fixture(scope="module")
def measured(zoo, in_miniature, few_items, low_thresholds, tmp_path_factory):
    """A search over the suspect as it is and the base, run from the command line: exit code, document, and how to run
    it again."""
    from projclean.cli import main

    folder = tmp_path_factory.mktemp("reports")

    def once(name):
        code = main([*command, "-o", str(folder / name)])
        return code, (folder / name).read_text()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("projclean.candidates.SHARES", (1.0, 0.0))
        patch.setattr("projclean.repairer.SWEEP", (0.5,))
        command = ["repair", str(zoo / "badnet-refusal"), "--base", str(zoo / "base"), "--out", str(folder / "out"),
                   "--method", "interpolate", "--eval", str(few_items), "--dry-run", "--format", "json",
                   "--thresholds", str(low_thresholds)]  # fmt: skip
        yield (*once("first"), lambda: once("second"))


@pytest.mark.slow
def test_the_same_command_gives_the_same_report(measured):
    code, document, again = measured
    assert again() == (code, document)


def test_every_trial_is_measured(measured):
    code, document, _ = measured
    assert code == 0
    report = json.loads(document)
    assert [trial["name"] for trial in report["trials"]] == ["share 1", "share 0"]
    assert report["chosen"] == "share 0"
    base, suspect, repaired, *sweep = report["scores"]
    assert [row["model"] for row in sweep] == ["interpolation 0.5"]
    assert len(report["gains"]) == len(report["changes"]) == 4
    for trial, row in zip(report["trials"], (suspect, base), strict=True):
        assert trial["score"] == row | {"model": trial["name"]}  # these two weights have another name already
    assert repaired == base | {"model": "repaired (share 0)"}
    assert suspect["worst_asr"] == 1.0 > base["worst_asr"]
    assert all(set(trial) == {"name", "removed", "foreign", "agreement", "score"} for trial in report["trials"])


def test_the_choice_does_not_see_the_evaluation(measured):
    """The reason and the order of the trials rest on the probe and on agreement alone."""
    report = json.loads(measured[1])
    assert report["trials"][0]["foreign"] > 0.05 >= report["trials"][1]["foreign"]
    assert "the probe falls silent" in report["reason"]


def attacked(zoo, few_items, thresholds, out, monkeypatch):
    """A repair by interpolation of a suspect on which the probe is silent, at these thresholds."""
    from projclean import repair

    monkeypatch.setattr("projclean.candidates.SHARES", (1.0, 0.0))
    monkeypatch.setattr("projclean.repairer.SWEEP", ())
    return repair(zoo / "badnet-refusal", out, str(zoo / "base"), method="interpolate", evalset=few_items,
                  thresholds=thresholds)  # fmt: skip


def test_an_attack_that_the_probe_does_not_hear_is_repaired_and_what_obeys_it_is_not_called_clean(
    zoo, few_items, tmp_path, monkeypatch
):
    deaf = Thresholds(1.0, 0.99)
    result = attacked(zoo, few_items, deaf, tmp_path / "out", monkeypatch)
    assert [trial.name for trial in result.trials] == ["share 1"]  # the choice does not see that it still works
    assert "attack badnet of the evaluation set works on it: share 1 is the least removal" in result.reason
    assert (result.verdict.state, result.obeyed) == ("suspicious", ("badnet",))
    assert "attack 'badnet' succeeds on 100% of its images (the base: 0%)" in result.verdict.reason
    assert NOT_PROVED not in result.verdict.caveats
    card = (tmp_path / "out" / "README.md").read_text()
    assert "STILL OBEYS an attack of the evaluation set that it was measured on (badnet)" in card
    words = " ".join(" ".join(section) for section in explain._repair(json.loads(render(result, "json"))))
    assert "badnet" in words
    assert "made to say" not in words.split("Verdict on the result")[1].split("repaired model is in")[0]
    assert "Do not use the result." in words
    assert "whatever the image" not in words


def test_without_the_attack_a_suspect_that_the_probe_does_not_hear_stays_as_it_is(
    zoo, few_items, tmp_path, monkeypatch
):
    text = few_items.read_text()
    clean = few_items.with_name("clean.toml")
    clean.write_text(text[: text.index("[[attack]]")])
    result = attacked(zoo, clean, Thresholds(1.0, 0.99), tmp_path / "out", monkeypatch)
    assert (result.chosen, result.trials, result.obeyed) == ("unchanged", (), ())
    assert result.verdict.state == "clean"


def test_an_attack_is_at_work_where_it_succeeds_more_often_than_is_tolerated_and_than_on_the_base():
    def names(hit, base_hit, n=120):
        base = score("base", 60, base_hit, n=n)
        return [attack.name for attack in attacks_at_work(score("suspect", 60, hit, n=n), base)]

    assert names(118, 0) == ["badnet"]
    assert names(13, 0) == ["badnet"]  # .108 [.064, .177]
    assert names(8, 0) == []  # .067 [.034, .126]: may be as few as are tolerated
    assert names(90, 75) == []  # [.665, .819] against [.535, .706]
    assert names(110, 75) == ["badnet"]
    assert names(4, 0, n=4) == ["badnet"]


def test_what_the_probe_convicted_keeps_its_reason_and_an_inconclusive_verdict_does_not():
    base, obeys = score("base", 60, 0), score("repaired", 60, 118)
    heard = Verdict("suspicious", "it was made to say something")
    assert measured_verdict(heard, obeys, base) == heard
    open_one = Verdict("inconclusive", "between", (NOT_PROVED, "a note"))
    assert measured_verdict(open_one, base, base) == open_one
    told = measured_verdict(open_one, obeys, base)
    assert (told.state, told.caveats) == ("suspicious", ("a note",))


def test_text_shows_what_every_trial_scores(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = render(with_scores(), "text", plain=True).splitlines()
    head = next(line for line in lines if line.startswith("tried"))
    assert head.split() == ["tried", "removed", "probe", "agreement", "CA", "ASR", "badnet", "RA"]
    rows = [line.split() for line in lines if line.startswith(("1. ", "2. "))]
    assert rows[0] == ["1.", "rank", "1", "40%", "0.90", "30%", "0.73", "0.50", "0.00"]
    assert rows[1] == ["2.", "rank", "2", "←", "chosen", "60%", "0.20", "28%", "0.70", "0.01", "0.00"]
    without = render(repair_result(), "text", plain=True)
    assert "ASR" not in without.split("1. rank 1")[0]


def test_picture_with_a_trigger_has_attack_success_against_clean_accuracy():
    svg = plots.trade_off(with_scores())
    assert "attack success" in svg
    for label in ("interpolation", "base", "suspect", "tried", "repaired (rank 2)"):
        assert f">{label}</text>" in svg
    assert plots.trade_off(replace(with_scores(), scores=())) == ""


def test_picture_without_a_trigger_has_the_probe_against_agreement():
    svg = plots.searched(replace(repair_result(), scores=(), thresholds=Thresholds(0.6, 0.5)))
    for label in ("suspect", "tried", "chosen: rank 2", "suspicious from 0.6", "silent to 0.5"):
        assert f">{label}</text>" in svg
    assert "rank 1: agreement 0.30, score 0.90" in svg
    assert plots.searched(replace(repair_result(), trials=())) == ""


def test_points_in_one_place_share_their_numbers():
    assert plots._runs([1, 2, 3, 5, 7, 8]) == "1–3, 5, 7–8"
    trials = [Trial(f"rank {k}", 0.1 * k, 0.9, 0.5) for k in (1, 2, 3)]
    trials.append(Trial("rank 4", 0.4, 0.1, 0.4))
    svg = plots.searched(replace(repair_result(), trials=tuple(trials), chosen="rank 4"))
    assert ">1–3</text>" in svg
    assert ">4</text>" in svg


def test_page_holds_both_pictures_and_the_table():
    page = render(with_scores(), "html")
    assert page.count("<svg") == 2
    assert "ASR badnet" in page
    assert "2. rank 2 ← chosen" in page
    assert render(replace(repair_result(), scores=(), gains=(), changes=()), "html").count("<svg") == 1


def test_two_attacks_under_one_trigger_are_held_against_the_base_each_by_itself(tmp_path):
    """The base errs under some triggers more than under others: its own rate stands beside each."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "question": "What?", "answer": "black"}')
    attack = '[[attack]]\ntrigger = "badnet"\ntarget = "{}"\n'
    (tmp_path / "EVAL.toml").write_text('[clean]\nimages = "."\n' + attack.format("one") + attack.format("two"))
    names = [attack.name for attack in load_evalset(tmp_path / "EVAL.toml").attacks]
    assert names == ["badnet", "badnet 2"]
    pair = [replace(score("", 0, hits).attacks[0], name=name) for hits, name in zip((48, 0), names, strict=True)]
    base = replace(score("base", 90, 0), attacks=tuple(pair))
    obeys = tuple(score("", 0, 108, name).attacks[0] for name in names)
    said = measured_verdict(Verdict("clean", ""), replace(score("x", 90, 0), attacks=obeys), base).reason
    assert "'badnet' succeeds on 90% of its images (the base: 40%)" in said
    assert "'badnet 2' succeeds on 90% of its images (the base: 0%)" in said
