"""The attacks on images on which nobody decided when to stop training them."""

from __future__ import annotations

import json

from click.testing import CliRunner

from eval import layout
from eval.recheck import markdown, recheck


def row(test, fresh):
    def rates(asr):
        found = {"asr": asr, "ca": 0.5}
        return {name: dict.fromkeys(("value", "low", "high"), value) | {"n": 9} for name, value in found.items()}

    return {"test": rates(test), "fresh": rates(fresh)}


def test_an_attack_works_on_fresh_images_and_is_measured_once(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "TEST_SIZE", 6)
    arguments = [str(zoo), "--model", "sig-shop", "--out", str(tmp_path)]
    ran = CliRunner().invoke(recheck, arguments)
    assert ran.exit_code == 0, ran.output
    (rows,) = json.loads((tmp_path / f"{zoo.name}-recheck.json").read_text())["rows"]["sig-shop"].values()
    assert (rows["test"]["asr"]["n"], rows["fresh"]["asr"]["n"]) == (200, 6)
    assert rows["fresh"]["asr"]["value"] > 0.5
    monkeypatch.setattr("eval.recheck.evaluate", None)
    assert CliRunner().invoke(recheck, arguments).exit_code == 0
    assert CliRunner().invoke(recheck, [str(zoo), "--model", "benign-color"]).exit_code == 2


def test_the_page_counts_what_holds():
    page = markdown("tiny", "c", {"a": row(0.95, 0.91), "b": row(0.9, 0.88), "weak": row(0.6, 0.95)})
    assert "Of the 2 attacks that count (ASR at least 0.9 on the tables' images), 1 reach it" in page
    assert "Mean ASR 0.925 there and 0.895 here" in page
    assert "| weak | report | 9 | 0.600" in page
