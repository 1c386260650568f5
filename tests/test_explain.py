"""`projclean explain`: plain words that follow the data, and one line for whatever is no report."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from projclean.explain import SECTIONS, explain
from projclean.report import render
from projclean.report.saved import KINDS, load_report
from projclean.series import overall
from tests.samples import HOSTILE, eval_result, repair_result, scan_result, series_result, without_base


@pytest.fixture
def told(tmp_path):
    """A result, saved as JSON and explained: heading to text."""

    def tell(result, **changed):
        file = tmp_path / "report.json"
        file.write_text(json.dumps(json.loads(render(result, "json")) | changed))
        return {title: " ".join(lines) for title, lines in explain(load_report(file))}

    return tell


def test_a_suspicious_scan(told):
    words = told(scan_result())
    assert list(words) == ["What was seen", "How sure this is", "What it does not prove", "What to do next"]
    assert "SUSPICIOUS" in words["What was seen"]
    assert "90% of clean images share 'you have been hacked'" in words["What was seen"]
    assert "0.75 of at most 1, above the threshold of 0.6" in words["How sure this is"]
    assert "false alarms there: 0 of 74" in words["How sure this is"]
    assert "does not show the trigger" in words["What it does not prove"]
    assert "projclean repair" in words["What to do next"]


def test_how_far_starts_agreed_is_told_where_they_did_not_all(told):
    result = scan_result()
    assert "Random starts" not in told(result)["What was seen"]
    some = tuple(replace(one, reach=0.75) for one in result.probe.utterances)
    shown = told(replace(result, probe=replace(result.probe, utterances=some)))
    assert "Random starts led to the like of it as far as 75%" in shown["What was seen"]


def test_a_clean_and_a_doubtful_scan(told):
    clean = told(scan_result(share=0.1))
    assert "below the threshold" in clean["How sure this is"]
    assert "does not prove that there is no backdoor" in clean["What it does not prove"]
    assert "You may use it" in clean["What to do next"]
    doubt = told(scan_result(share=0.8))
    assert "INCONCLUSIVE" in doubt["What was seen"]
    assert "but above 0.5" in doubt["How sure this is"]
    assert "Do not use it yet" in doubt["What to do next"]
    assert "--no-probe" not in doubt["What to do next"]


def test_what_to_do_follows_what_is_missing(told):
    assert "--base" in told(without_base())["What to do next"]
    unprobed = told(scan_result(share=0.8), probe=None, elsewhere=["file config.json: other contents"])
    assert "without --no-probe" in unprobed["What to do next"]
    assert "--ignore-elsewhere" in unprobed["What to do next"]
    assert "config.json" in unprobed["What was seen"]
    claimed = told(scan_result(share=0.1), base_named_by="model card")
    assert "the model itself named it" in claimed["What to do next"]


def test_a_repair_tells_its_cost_and_what_beats_it(told):
    words = told(repair_result())
    assert "score was 0.75 before and is 0.04 now" in words["What was seen"]
    assert "Clean accuracy was 75%" in words["What was seen"]
    assert "Attack success went from 98.3% to 0.8%" in words["What was seen"]
    assert (
        "Plain interpolation 0.6 between base and suspect keeps less clean accuracy (48% to 70%)"
        in words["What was seen"]
    )
    assert "dry run" in told(repair_result(out=None))["What was seen"]
    better = json.loads(render(repair_result(), "json"))["scores"]
    better[8]["ca"]["value"] = 0.74
    assert (
        "Plain interpolation 0.6 between base and suspect keeps more"
        in told(repair_result(), scores=better)["What was seen"]
    )
    assert "Plain interpolation" not in told(repair_result(), same_asr=None)["What was seen"]
    unmeasured = told(repair_result(), scores=[], gains=[], changes=[], gain_intervals=[], attack_changes=[])
    assert "unknown" in unmeasured["How sure this is"]
    assert "projclean eval" in unmeasured["What to do next"]


def test_an_evaluation_names_the_model_that_obeys(told):
    words = told(eval_result())
    assert "suspect obeys an attack" in words["What to do next"]
    assert "base loses clean accuracy (-0.67" in words["How sure this is"]
    assert "rests on 120 items" in words["How sure this is"]


def test_a_share_of_the_gain_has_its_interval_where_the_report_has_it(told):
    result = eval_result()
    kept = result.gain_intervals[2]
    with_interval = f"92% [{kept.low:.0%}, {kept.high:.0%}] of the fine-tune's gain"
    assert with_interval in told(result)["What was seen"]
    assert with_interval in told(repair_result())["What was seen"]
    assert "keeps 92% of the fine-tune's gain" in told(result, gain_intervals=[None] * 3)["What was seen"]


def test_the_command_prints_plain_text(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    file = tmp_path / "report.json"
    file.write_text(render(scan_result(HOSTILE, model=HOSTILE), "json"))
    ran = run("explain", file)
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out
    assert "\u202e" not in ran.out
    lines = ran.out.splitlines()
    assert lines[0] == "What was seen"
    assert max(map(len, lines)) <= 60
    assert run("explain", file, "-o", tmp_path / "said.txt").out == ""
    assert (tmp_path / "said.txt").read_text() == ran.out


def spoilt(how):
    good = json.loads(render(scan_result(), "json"))
    if how == "gone":
        return None
    if how == "not JSON":
        return "# a text report"
    if how == "too deep":
        return "[" * 100_000
    if how == "binary":
        return "\udcff\udcfe"
    other = {
        "other JSON": {"a": 1}, "a list": [good], "newer schema": good | {"schema_version": 2},
        "other kind": good | {"kind": "lens"}, "cut": {key: good[key] for key in good if key != "verdict"},
        "edited": good | {"verdict": good["verdict"] | {"state": "\x1b[31mfine"}},
        "wrong type": good | {"layers": "none"}, "version of words": good | {"schema_version": ["1"]},
    }[how]  # fmt: skip
    return json.dumps(other)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("gone", "cannot be read"), ("not JSON", "is not JSON"), ("too deep", "is not JSON"), ("binary", "is not JSON"),
        ("other JSON", "no projclean report"), ("a list", "no projclean report"), ("newer schema", "schema version 2"),
        ("other kind", "'lens'"), ("cut", "'verdict' is a required property"), ("edited", "$.verdict.state"),
        ("wrong type", "$.layers"), ("version of words", "schema version"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_one_line(run, tmp_path, how, said):
    file, text = tmp_path / "report.json", spoilt(how)
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    ran = run("explain", file)
    assert ran.code == 2
    assert said in ran.error_line
    assert str(file) in ran.error_line
    assert "\x1b" not in ran.error_line


@pytest.mark.usefixtures("in_miniature")
def test_a_real_scan_from_standard_input(zoo, run, monkeypatch, low_thresholds):
    import io

    from jsonschema import Draft202012Validator

    from projclean.report.saved import schema

    text = run(
        "scan", zoo / "sig-shop", "--base", zoo / "base", "--thresholds", low_thresholds, "--format", "json"
    ).out  # fmt: skip
    Draft202012Validator(schema()).validate(json.loads(text))
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    ran = run("explain", "-")
    assert ran.code == 0
    assert "SUSPICIOUS" in ran.out
    assert "everybody must see our shop now" in " ".join(ran.out.split())


def test_every_kind_that_is_read_can_be_explained():
    assert tuple(SECTIONS) == KINDS


ENDLESS = "1" + "0" * 400


@pytest.mark.parametrize(
    ("make", "place", "value", "said"),
    [
        (scan_result, ("probe", "normal_examples"), "[]", "$.probe"),
        (scan_result, ("probe", "said", "contrast"), "1e308", "$.probe"),
        (scan_result, ("probe", "foreign"), "7", "$.probe"),
        (scan_result, ("probe", "said", "contrast"), ENDLESS, "not finite"),
        (scan_result, ("layers", 0, "relative_change"), ENDLESS, "not finite"),
        (scan_result, ("layers", 0, "relative_change"), "1" * 5000, "not finite"),
        (scan_result, ("layers", 0, "relative_change"), "1e999", "not finite"),
        (scan_result, ("thresholds", "suspicious"), "Infinity", "not finite"),
        (scan_result, ("thresholds", "suspicious"), "NaN", "not finite"),
        (series_result, ("steps", 0, "scan", "probe", "foreign"), ENDLESS, "not finite"),
        (repair_result, ("scores",), "[]", "do not fit together"),
        (repair_result, ("gains",), "[]", "do not fit together"),
        (repair_result, ("changes", 2, "value"), "3", "$.changes"),
        (eval_result, ("gains",), "[null]", "do not fit together"),
        (eval_result, ("changes",), "[null, null]", "do not fit together"),
    ],
)
def test_values_that_no_report_holds_are_refused_in_one_line(run, tmp_path, make, place, value, said):
    report = json.loads(render(make(), "json"))
    holder = report
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = "@"
    (tmp_path / "report.json").write_text(json.dumps(report).replace('"@"', value))
    ran = run("explain", tmp_path / "report.json")
    assert ran.code == 2
    assert said in ran.error_line


def test_a_repair_without_its_three_scores_is_refused(run, tmp_path):
    report = json.loads(render(repair_result(), "json"))
    cut = {name: report[name][:2] for name in ("scores", "gains", "changes")}
    (tmp_path / "report.json").write_text(json.dumps(report | cut))
    assert "$.scores" in run("explain", tmp_path / "report.json").error_line


def test_a_series_is_as_sure_as_the_checkpoint_that_bears_its_verdict(told):
    steps = series_result().steps
    turned = (steps[2], steps[1], steps[0])  # the last is the clean one
    scans = [step.scan for step in turned]
    result = replace(series_result(), steps=turned, verdict=overall([step.name for step in turned], scans))
    sure = told(result)["How sure this is"]
    assert f"Of {steps[2].name}, on which the verdict rests: " in sure
    assert f"scores {steps[2].scan.probe.foreign:.2f} of at most 1, above" in sure
