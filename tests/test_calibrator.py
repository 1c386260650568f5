"""Thresholds from a bank of models of one's own: what is refused, what is held, what scan and repair make of them."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace

import pytest
import torch
from jsonschema import Draft202012Validator

from eval.zoo import SHIPPED
from projclean import calibration, calibrator
from projclean.errors import OptionError, ThresholdsError
from projclean.further import NOTHING_FURTHER
from projclean.probe import WORDS, Probe
from projclean.report.saved import schema
from projclean.thresholds import read_thresholds
from tests.conftest import llava_tensors
from tests.miniature import BASE, share_of, small_probe  # noqa: F401


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
def test_a_bank_gives_thresholds_that_scan_and_repair_use(run, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "DRAWN", 32)
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
    assert (found.words, found.questions) == (False, False)
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
        calibrator._thresholds(scored, 0.02, None, "", 0, NOTHING_FURTHER)
    louder = replace(scored[3], score=0.66)
    assert calibrator._thresholds([*scored[:3], louder], 0.02, None, "", 0, NOTHING_FURTHER).suspicious <= 1
    (tmp_path / "own.json").write_text('{"foreign": {"suspicious": 30.5, "clean": 30}}')
    with pytest.raises(ThresholdsError, match="above 1, the highest score"):
        read_thresholds(tmp_path / "own.json")
