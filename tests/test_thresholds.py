"""Thresholds: strict reading, and whose they are in every report."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from projclean.probe import Probe
from projclean.report import FORMATS, render
from projclean.thresholds import Thresholds, read_thresholds, shipped
from projclean.verdict import judge
from tests.samples import probe, repair_result, scan_result

GOOD = {"suspicious": 0.8, "clean": 0.4}


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
        assert "0 of 74" in plain


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
