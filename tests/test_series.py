"""A series of checkpoints: what is followed, the worst verdict, and what stays as it was for a single model."""

from __future__ import annotations

import json

import pytest
import torch
from jsonschema import Draft202012Validator

from eval.zoo import SHIPPED
from projclean.report.saved import schema
from projclean.series import overall
from tests.conftest import llava_tensors
from tests.miniature import BASE, share_of, small_probe  # noqa: F401
from tests.samples import scan_result, without_base

FIRST, SECOND = "multi_modal_projector.linear_1", "multi_modal_projector.linear_2"


def changed(amount: torch.Tensor | float):
    tensors = llava_tensors()
    tensors[f"{FIRST}.weight"] += amount
    return tensors


@pytest.fixture
def checkpoints(make_model):
    """Three checkpoints of which the second moves along a direction across the first's, and the third along both."""
    along, across, out = torch.zeros(12), torch.zeros(12), torch.ones(20)
    along[0], across[1] = 1.0, 1.0
    updates = (torch.outer(out, along), torch.outer(out, across), torch.outer(out, 3 * along + across))
    return [make_model(f"checkpoint-{n}", changed(update)) for n, update in enumerate(updates, 1)], make_model(
        "base", llava_tensors()
    )


def test_angles_of_known_updates_without_a_probe(checkpoints, run):
    models, base = checkpoints
    ran = run("scan", "--base", base, "--no-probe", "--format", "json", "--", *models)
    assert (ran.code, ran.err) == (2, "")
    report = json.loads(ran.out)
    Draft202012Validator(schema()).validate(report)
    assert report["kind"] == "series"
    assert [step["name"] for step in report["steps"]] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    first, second, third = (step["turns"] for step in report["steps"])
    (one,), (two,), (three,) = ([t for t in turns if t["layer"] == FIRST] for turns in (first, second, third))
    assert (one["to_previous"], three["to_last"]) == (None, None)
    assert two["to_previous"] == pytest.approx([90], abs=0.01)  # rank 1: one direction, however many were asked for
    assert one["to_last"] == pytest.approx([18.4349], abs=0.01)  # arctan(1/3)
    assert three["to_previous"] == two["to_last"] == pytest.approx([71.5651], abs=0.01)
    (still,) = (t for t in second if t["layer"] == SECOND)
    assert (still["to_previous"], still["to_last"]) == (None, None)  # that layer never changed
    assert "inconclusive" in report["verdict"]["reason"]


def test_one_checkpoint_is_a_scan_as_ever(checkpoints, run):
    models, base = checkpoints
    alone = json.loads(run("scan", models[0], "--base", base, "--no-probe", "--format", "json").out)
    series = json.loads(run("scan", *models, "--base", base, "--no-probe", "--format", "json").out)
    assert alone["kind"] == "scan"
    assert series["steps"][0]["scan"] == {
        key: value for key, value in alone.items() if key not in ("schema_version", "kind", "versions")
    }


@pytest.mark.usefixtures("small_probe")
def test_a_backdoor_is_followed_through_training(run, tmp_path):
    models = [share_of("badnet-refusal", 0.15, tmp_path), SHIPPED / "badnet-refusal.safetensors"]
    own = tmp_path / "own.json"
    own.write_text('{"foreign": {"suspicious": 0.1, "clean": 0.05}}')
    report = tmp_path / "report.json"
    ran = run("scan", *models, "--base", BASE, "--format", "json", "-o", report, "--thresholds", own)
    told = json.loads(report.read_text())
    Draft202012Validator(schema()).validate(told)
    before, after = (step["scan"] for step in told["steps"])
    assert before["probe"]["foreign"] < 0.05 < 0.1 < after["probe"]["foreign"]
    assert "i can not help" in after["probe"]["said"]["text"]
    assert (before["verdict"]["state"], after["verdict"]["state"]) == ("clean", "suspicious")
    assert (ran.code, told["verdict"]["state"]) == (1, "suspicious")
    assert told["thresholds"]["source"] == before["thresholds"]["source"] == str(own)
    one, two = told["steps"][0]["turns"]
    assert one["to_last"] == sorted(one["to_last"])
    assert len(one["to_last"]) == 4
    assert one["to_last"][-1] < 5  # shares of one update; the first layer's inputs do not depend on it
    assert 5 < two["to_last"][-1] < 60  # the second's do
    words = " ".join(run("explain", report).out.split())
    assert "2 checkpoints were scanned" in words
    assert "weighs in no verdict" in words


def test_unrelated_fine_tunes_lie_apart(run):
    models = [SHIPPED / "badnet-refusal.safetensors", SHIPPED / "benign-color.safetensors"]
    report = json.loads(run("scan", *models, "--base", BASE, "--no-probe", "--format", "json").out)
    angles = report["steps"][1]["turns"][0]["to_previous"]
    assert angles[0] > 10
    assert angles[-1] > 60


def test_the_worst_verdict_counts():
    loud, quiet, open_ = scan_result(), scan_result(share=0.1), without_base()
    assert overall("ab", [quiet, quiet]).state == "clean"
    assert overall("abc", [quiet, open_, quiet]).state == "inconclusive"
    worst = overall("abcd", [quiet, scan_result(share=0.82), open_, loud])
    assert worst.state == "suspicious"
    assert worst.reason.startswith("2 of 4 checkpoints are suspicious, first b; of d: it was made to say")
    assert overall("abc", [quiet, open_, quiet]).reason.startswith("1 of 3 checkpoints is inconclusive, first b; of b")


def test_exit_codes_follow_the_worst(checkpoints, run):
    models, base = checkpoints
    assert run("scan", base, base, "--base", base).code == 0
    assert run("scan", base, models[0], "--base", base, "--no-probe").code == 2
    assert run("scan", base, models[0], "--base", base, "--no-probe", "--fail-on", "suspicious").code == 0
    assert run("scan", base, models[0], "--base", base, "--no-probe", "--exit-zero").code == 0


@pytest.mark.parametrize("form", ["text", "markdown", "html", "sarif"])
def test_every_format_names_every_checkpoint(checkpoints, run, form):
    models, base = checkpoints
    shown = run("scan", *models, "--base", base, "--no-probe", "--format", form).out
    assert all(model.name in shown for model in models)
    if form == "sarif":
        results = json.loads(shown)["runs"][0]["results"]
        assert [result["ruleId"] for result in results] == ["PC002"] * 3
    else:
        assert "90°" in shown


def test_a_missing_checkpoint_is_told_before_any_is_scanned(checkpoints, run, tmp_path, monkeypatch):
    models, base = checkpoints
    monkeypatch.setattr("projclean.series.examine", lambda *_: pytest.fail("scanned"))
    ran = run("scan", models[0], tmp_path / "gone", "--base", base)
    assert ran.code == 2
    assert "gone" in ran.error_line


def test_checkpoints_of_different_bases_are_refused(make_model, run):
    for name in ("base-a", "base-b"):
        make_model(name, llava_tensors())
    models = [make_model(f"of-{name}", changed(0.1), _name_or_path=name) for name in ("base-a", "base-b")]
    ran = run("scan", *models, "--no-probe")
    assert ran.code == 2
    assert "--base" in ran.error_line
    assert "base-b" in ran.error_line
