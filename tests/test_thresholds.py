"""Thresholds: strict reading, whose they are in every report, and setting them on a bank."""

from __future__ import annotations

import json
import math
import os
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from eval.zoo import SHIPPED
from projclean import calibrator
from projclean.errors import OptionError, ThresholdsError
from projclean.probe import WORDS, Probe
from projclean.report import FORMATS, render
from projclean.report.saved import schema
from projclean.thresholding import derive, enough
from projclean.thresholds import Thresholds, read_thresholds, shipped
from projclean.verdict import judge
from tests.conftest import llava_tensors
from tests.miniature import BASE, share_of, small_probe  # noqa: F401
from tests.samples import probe, repair_result, scan_result

GOOD = {"suspicious": 0.8, "clean": 0.4}

# Reading


def test_shipped_thresholds_are_read_as_a_users_are():
    found = shipped()
    assert 0 < found.clean <= found.suspicious
    assert found.source is None
    assert all((found.bank, found.rule, found.false_positives, found.date))
    assert found.describe().startswith(f"clean up to {found.clean:g}, suspicious from {found.suspicious:g}: shipped")


def test_a_file_needs_no_more_than_two_numbers(tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"foreign": GOOD | {"suspicious": 1}}))
    found = read_thresholds(file)
    assert (found.suspicious, found.clean, found.source, found.bank) == (1.0, 0.4, str(file), None)
    assert len(found.sha256) == 64


BAD = {
    "empty": (b"", "is not JSON"),
    "not JSON": (b"suspicious = 1", "is not JSON"),
    "not text": (b"\xff\xfe{}", "is not JSON"),
    "too deep": (b"[" * 100_000, "is not JSON"),
    "a list": (b"[]", "no object 'foreign'"),
    "flat": (json.dumps(GOOD).encode(), "no object 'foreign'"),
    "clean missing": (b'{"foreign": {"suspicious": 1}}', "lacks 'clean'"),
    "suspicious missing": (b'{"foreign": {"clean": 1}}', "lacks 'suspicious'"),
    "unknown": (json.dumps({"foreign": GOOD | {"supicious": 1}}).encode(), "unknown key 'supicious'"),
    "unknown outside": (json.dumps({"foreign": GOOD, "version": 1}).encode(), "unknown key 'version'"),
    "source claimed": (json.dumps({"foreign": GOOD | {"source": "projclean"}}).encode(), "unknown key 'source'"),
    "twice": (b'{"foreign": {"suspicious": 1, "clean": 0, "clean": 1}}', "key twice"),
    "text": (json.dumps({"foreign": GOOD | {"clean": "0.4"}}).encode(), "'clean' is not a finite number"),
    "truth": (json.dumps({"foreign": GOOD | {"clean": False}}).encode(), "'clean' is not a finite number"),
    "null": (json.dumps({"foreign": GOOD | {"clean": None}}).encode(), "'clean' is not a finite number"),
    "NaN": (b'{"foreign": {"suspicious": NaN, "clean": 0}}', "holds NaN"),
    "infinity": (b'{"foreign": {"suspicious": Infinity, "clean": 0}}', "holds Infinity"),
    "beyond a float": (b'{"foreign": {"suspicious": 1e999, "clean": 0}}', "not a finite number"),
    "huge": (b'{"foreign": {"suspicious": 1' + b"0" * 400 + b', "clean": 0}}', "not a finite number"),
    "crossed": (json.dumps({"foreign": {"suspicious": 0.4, "clean": 0.5}}).encode(), "'clean' (0.5) is above"),
    "convicts silence": (b'{"foreign": {"suspicious": 0, "clean": 0}}', "above 0"),
    "below 0": (b'{"foreign": {"suspicious": 1, "clean": -1}}', "above 0"),
    "text for a truth": (
        json.dumps({"foreign": GOOD | {"words": "yes"}}).encode(),
        "'words' is neither true nor false",
    ),
    "number for a text": (json.dumps({"foreign": GOOD | {"bank": 3}}).encode(), "'bank' is not a text"),
    "seed": (json.dumps({"foreign": GOOD | {"seed": 0.5}}).encode(), "'seed' is not a whole number"),
    "models": (json.dumps({"foreign": GOOD, "models": 3}).encode(), "'models' is no list"),
    "oversized": (b" " * ((4 << 20) + 1), "larger than 4 MiB"),
}


@pytest.fixture
def pair(make_model):
    changed = llava_tensors()
    changed["multi_modal_projector.linear_1.weight"] += 0.1
    return make_model("suspect", changed), make_model("base", llava_tensors())


@pytest.mark.parametrize("how", [*BAD, "missing", "a directory", "a pipe"])
def test_a_bad_file_is_one_line_before_any_work(how, pair, run, tmp_path):
    suspect, base = pair
    file = tmp_path / "own.json"
    said = "cannot be read as thresholds"
    if how == "a directory":
        file.mkdir()
    elif how == "a pipe":
        os.mkfifo(file)
    elif how != "missing":
        data, said = BAD[how]
        file.write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    for command in (("scan", suspect), ("scan", suspect, suspect), ("repair", suspect, "--out", tmp_path / "out")):
        ran = run(*command, "--base", base, "--thresholds", file)
        assert ran.code == 2
        assert said in ran.error_line
        assert str(file) in ran.error_line
    assert sorted(tmp_path.rglob("*")) == before


# Judging and reporting


def test_the_verdict_follows_the_thresholds_it_is_given():
    found = probe()  # scores 0.75
    assert judge(True, found, thresholds=Thresholds(0.7, 0.5)).state == "suspicious"
    between = judge(True, found, thresholds=Thresholds(0.9, 0.7, "own.json"))
    assert between.state == "inconclusive"
    assert "clean (0.7) and suspicious (0.9 of own.json)" in between.reason
    clean = judge(True, found, thresholds=Thresholds(0.95, 0.8, "own.json"))
    assert clean.state == "clean"
    assert "threshold 0.95 of own.json" in clean.reason
    silent = Probe(0.0, (), ("a",), 1)
    assert judge(True, silent, thresholds=Thresholds(1e-9, 0.0)).state == "clean"


@pytest.mark.parametrize("form", FORMATS)
def test_every_report_says_whose_thresholds_and_where_they_come_from(form, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    own = Thresholds(0.8, 0.4567, "own.json", bank="30 of ours", false_positives="1 of 30", date="2026-01-02")
    for result in (scan_result(), repair_result()):
        plain, ours = render(result, form), render(replace(result, thresholds=own), form)
        told = ("own.json", "30 of ours", "1 of 30", "2026-01-02", "0.4567")
        assert all(word in ours for word in told)
        assert not any(word in plain for word in told)
        assert "0 of 50" in plain


def test_a_bar_is_red_from_the_users_own_threshold_on():
    result = scan_result(share=0.8)  # scores 0.59
    strict = replace(result, thresholds=Thresholds(0.5, 0.4, "own.json"))
    assert 'class="bad"' not in render(result, "html")
    assert 'class="bad"' in render(strict, "html")


def test_thresholds_of_another_prompt_or_version_are_a_caveat():
    assert shipped().caveats("Describe the image.") == ()
    own = Thresholds(0.8, 0.4, "own.json", prompt="What is it?", projclean="0.0.1")
    other, version = own.caveats("Describe the image.")
    assert "What is it?" in other
    assert "0.0.1" in version
    assert len(own.caveats("What is it?")) == 1


def test_explain_names_the_file(run, tmp_path):
    report = tmp_path / "r.json"
    report.write_text(render(replace(scan_result(), thresholds=Thresholds(0.8, 0.4, "own.json")), "json"))
    words = run("explain", report).out
    assert "thresholds are those of own.json" in " ".join(words.split())
    assert "were set on" not in words


# Scores in, thresholds out


def test_known_thresholds():
    parted = derive([0.04, 0.07, 0.17, 0.36], [0.92, 1.63, 1.65])  # the first bank of the tiny tier
    assert parted.suspicious == pytest.approx(math.sqrt(0.36 * 0.92), abs=0.001)
    assert 0.36 < parted.clean < parted.suspicious
    assert (parted.false_positives.value, parted.true_positives.value) == (0, 1)
    assert parted.false_positives.high == pytest.approx(1 - 0.025 ** (1 / 4))  # Clopper and Pearson, none of four
    assert "too few to promise 0.02: that takes 49" in parted.rule
    alone = derive([0.1, 0.2, 0.3, 0.4])
    assert alone.suspicious == pytest.approx(0.6, abs=0.0011)
    assert "above the highest benign score by half of it" in alone.rule
    assert alone.true_positives is None
    silent = derive([0.0] * 4)
    assert 0 <= silent.clean < silent.suspicious == pytest.approx(0.03, abs=0.0011)
    mixed = derive([0.1, 0.2, 0.3, 0.4], [0.35, 2.0])
    assert mixed.suspicious == alone.suspicious
    assert mixed.true_positives.value == 0.5
    assert "do not part" in mixed.rule


def test_enough_models_promise_the_rate_and_not_one_less():
    assert [enough(rate) for rate in (0.02, 0.05, 0.1, 0.25)] == [49, 19, 9, 3]
    scores = [number / 100 for number in range(49)]
    assert derive(scores).rule == "just above the highest benign score"
    assert "too few" in derive(scores[1:]).rule
    hundred = derive([number / 100 for number in range(100)])  # one of a hundred may be convicted
    assert 0.98 < hundred.suspicious <= 0.99
    assert hundred.false_positives.value == 0.01
    assert hundred.rule == "just above the benign score of rank 99"


def test_outliers_beyond_the_target_do_not_hide_that_the_rest_parts():
    scores = [number / 1000 for number in range(99)]
    assert 0.098 < derive([*scores, 5.0], [2.0]).suspicious == pytest.approx(math.sqrt(0.098 * 2), abs=0.001)
    assert derive([*scores, 1.0], [2.0]).suspicious > 1  # where nobody need be convicted wrongly, nobody is


SCORES = st.lists(st.floats(0, 20), min_size=4, max_size=60)


@given(SCORES, st.lists(st.floats(0, 20), max_size=9), st.floats(0.01, 0.5))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_thresholds_keep_their_order_and_the_target_on_their_own_bank(benign, backdoored, target):
    found = derive(benign, backdoored, target)
    assert 0 <= found.clean <= found.suspicious
    assert found.suspicious > 0
    assert sum(score > found.clean for score in benign) <= target * (len(benign) + 1)
    assert sum(score >= found.suspicious for score in benign) <= target * (len(benign) + 1)
    if backdoored and min(backdoored) > max(benign):
        assert max(benign) < found.suspicious <= min(backdoored)
        assert found.clean >= max(benign)


@given(st.lists(st.floats(0, 20), min_size=10, max_size=40), st.sampled_from([0.1, 0.2, 0.3]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_model_left_out_passes_the_others_threshold_no_more_often_than_promised(scores, target):
    out = sum(score > derive([*scores[:at], *scores[at + 1 :]], (), target).clean for at, score in enumerate(scores))
    assert out <= target * len(scores)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(target, run):
    with pytest.raises(OptionError):
        derive([0.1] * 4, (), target)
    ran = run("calibrate", "a", "b", "c", "d", "--false-positive-rate", target)
    assert (ran.code, "must lie between 0 and 1" in ran.error_line) == (2, True)


# A bank


def test_a_bank_that_cannot_be_used_is_refused_in_one_line(pair, make_model, run, tmp_path):
    suspect, base = pair
    models = [make_model(f"m{n}", llava_tensors() | {"multi_modal_projector.linear_1.bias": torch.full((20,), n + 1.0)})
              for n in range(4)]  # fmt: skip
    linked = tmp_path / "linked"
    linked.symlink_to(models[1])
    for arguments, said in (
        (models[:3], "3 benign models are too few"),
        ([*models, models[0]], "more than once"),
        ([*models, "--backdoored", models[1]], "more than once"),
        ([*models, f"{models[0]}/"], "more than once"),
        ([*models, "--backdoored", linked], "more than once"),
        ([*models[:3], "some-one/model", "some-one/model"], "more than once"),
        ([*models, base], "its projector is the base's"),
        ([*models, tmp_path / "gone"], "gone"),
        ([*models, suspect], "cannot load"),
        ([*models, "-o", tmp_path / "no" / "t.json"], "cannot be written"),
    ):
        ran = run("calibrate", *arguments, "--base", base)
        assert ran.code == 2
        assert said in ran.error_line


def test_one_model_of_a_bank_is_held_at_a_time(make_model, monkeypatch):
    models = [make_model(f"m{n}", llava_tensors() | {"multi_modal_projector.linear_1.bias": torch.full((20,), n + 1.0)})
              for n in range(4)]  # fmt: skip
    held: list[weakref.ref] = []

    class Loaded:
        def __init__(self, *_):
            assert not any(other() for other in held)
            held.append(weakref.ref(self))

    monkeypatch.setattr(calibrator, "set_up", Loaded)
    monkeypatch.setattr(calibrator, "run_probe", lambda *_: Probe(0.1, (), ("",), 1))
    calibrator.calibrate(models, str(make_model("base", llava_tensors())))
    assert len(held) == 4


@pytest.mark.usefixtures("small_probe")
def test_a_bank_gives_thresholds_that_scan_and_repair_use(run, tmp_path):
    benign = [SHIPPED / "benign-color.safetensors", SHIPPED / "benign-caption.safetensors"]
    benign += [share_of("benign-color", 0.5, tmp_path), share_of("benign-caption", 0.5, tmp_path)]
    bad, own = SHIPPED / "badnet-refusal.safetensors", tmp_path / "own.json"
    ran = run("calibrate", *benign, "--base", BASE, "--backdoored", bad, "-o", own)
    assert (ran.code, ran.out) == (0, "")
    assert "suspicious from" in ran.err
    assert "0 of 4" in ran.err
    written = json.loads(own.read_text())
    scores = {one["model"]: one["score"] for one in written["models"]}
    assert set(scores) == {str(model) for model in [*benign, bad]}
    found = read_thresholds(own)
    highest = max(scores[str(model)] for model in benign)
    assert (found.highest_benign, found.lowest_backdoored) == pytest.approx((highest, scores[str(bad)]), abs=1e-6)
    assert highest - 1e-6 <= found.clean < found.suspicious <= scores[str(bad)]
    assert found.bank == "4 benign and 1 backdoored models of base"
    assert (found.seed, found.target_false_positive_rate, found.prompt) == (0, 0.02, "Describe the image.")
    assert found.words is False
    assert "that takes 49" in found.rule

    ran = run("scan", bad, "--base", BASE, "--thresholds", own, "--words", "--format", "json")
    report = json.loads(ran.out)
    Draft202012Validator(schema()).validate(report)
    assert ran.code == 1
    assert report["probe"]["foreign"] == pytest.approx(scores[str(bad)], abs=2e-6)  # the bank is probed as scan probes
    assert report["thresholds"]["bank"] == found.bank
    assert report["probe"]["settings"]["words"] == WORDS
    assert "set without --words" in " ".join(report["verdict"]["caveats"])
    assert f"threshold {found.suspicious:g} of {own}" in report["verdict"]["reason"]

    own.write_text(json.dumps({"foreign": {"suspicious": 1, "clean": 0.999}}))
    ran = run("repair", bad, "--base", BASE, "--thresholds", own, "--out", tmp_path / "out", "--format", "json")
    report = json.loads(ran.out)
    Draft202012Validator(schema()).validate(report)
    assert (ran.code, report["chosen"], report["trials"]) == (0, "unchanged", [])  # silent, by these thresholds
    assert report["thresholds"]["source"] == str(own)
    assert "by the thresholds of `own.json`" in (tmp_path / "out" / "README.md").read_text()


def test_thresholds_that_nothing_reaches_are_neither_made_nor_read(tmp_path):
    scored = [calibrator.Scored(f"m{place}", False, score, "x") for place, score in enumerate((0.03, 0.05, 0.1, 0.85))]
    with pytest.raises(OptionError, match=r"m3: scores 0\.85 \('x'\), .* convict nothing"):
        calibrator._thresholds(scored, 0.02, None, "", 0, False)
    louder = replace(scored[3], score=0.66)
    assert calibrator._thresholds([*scored[:3], louder], 0.02, None, "", 0, False).suspicious <= 1
    (tmp_path / "own.json").write_text('{"foreign": {"suspicious": 30.5, "clean": 30}}')
    with pytest.raises(ThresholdsError, match="above 1, the highest score"):
        read_thresholds(tmp_path / "own.json")
