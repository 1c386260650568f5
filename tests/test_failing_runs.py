"""Models that load and fail when they are run: one line, or a verdict that says so, and never a traceback."""

from __future__ import annotations

import json
import shutil

import pytest

from eval.zoo import SHIPPED
from projclean import calibration, probe
from tests.miniature import BASE, small_probe  # noqa: F401

SUSPECT = SHIPPED / "badnet-refusal.safetensors"


def refusing_template(folder):
    (folder / "chat_template.jinja").write_text('{{ raise_exception("not today") }}')
    return "not today"


def another_image_token(folder):
    change(folder / "config.json", image_token_index=7)
    return "fails when it is run (Image features and image tokens do not match"


def change(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.fixture
def base(tmp_path):
    """A copy of the shipped base, to be spoilt."""
    return shutil.copytree(BASE, tmp_path / "base")


@pytest.fixture(params=[refusing_template, another_image_token])
def reason(request, base):
    """What is told of a base spoilt in one way."""
    return request.param(base)


def unprobed(ran):
    assert ran.code == 2
    report = json.loads(ran.out)
    assert (report["verdict"]["state"], report["probe"]) == ("inconclusive", None)
    assert "Traceback" not in ran.err
    return report["verdict"]["reason"]


def test_eval_and_lens_end_in_one_line(base, reason, two_items, run):
    line = run("eval", base, "--eval", two_items).error_line
    assert reason in line
    assert "evaluate it where it can be run" in line
    assert reason in run("lens", "-q", SUSPECT, "--base", base, "--ranks", 8, "--items", 2).error_line


def test_a_scan_is_inconclusive(base, reason, run):
    assert reason in unprobed(run("scan", "-q", SUSPECT, "--base", base, "--format", "json"))


@pytest.mark.usefixtures("small_probe")
def test_what_goes_wrong_in_the_probe_is_told_in_the_verdict(run, monkeypatch):
    def fail(*_):
        raise RuntimeError("expected a mask\nof another size")

    monkeypatch.setattr(probe, "probe", fail)
    told = unprobed(run("scan", "-q", SUSPECT, "--base", BASE, "--format", "json"))
    assert "expected a mask of another size" in told


@pytest.mark.usefixtures("small_probe")
def test_pixels_that_are_all_zero_give_a_probe_nowhere_to_go(base, run, monkeypatch):
    monkeypatch.setattr(calibration, "DRAWN", 16)
    file = base / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"] |= {"rescale_factor": 0.0, "image_mean": [0, 0, 0]}
    file.write_text(json.dumps(settings))
    assert "all pixels 0" in unprobed(run("scan", "-q", SUSPECT, "--base", base, "--format", "json"))


def test_a_generation_config_that_asks_for_more_than_ids_changes_nothing(base, two_items, run):
    plain = run("eval", base, "--eval", two_items, "--format", "json")
    change(base / "generation_config.json", return_dict_in_generate=True)
    assert run("eval", base, "--eval", two_items, "--format", "json").out == plain.out
    assert plain.code == 0
