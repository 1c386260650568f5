"""`projclean lens` on shipped models: the page, the JSON, the terminal, and what it refuses."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest


@pytest.fixture(scope="session")
def small(zoo):
    """The shipped suspect's evaluation set, cut to a few items."""
    folder = zoo / "small"
    (folder / "clean").mkdir(parents=True)
    source = zoo / "data" / "clean-caption"
    lines = (source / "metadata.jsonl").read_text().splitlines()[:24]
    (folder / "clean" / "metadata.jsonl").write_text("\n".join(lines))
    for row in lines:
        name = json.loads(row)["file_name"]
        (folder / "clean" / name).write_bytes((source / name).read_bytes())
    text = (zoo / "badnet-refusal" / "EVAL.toml").read_text().replace("../data/clean-caption", "clean")
    (folder / "EVAL.toml").write_text(text)
    return folder / "EVAL.toml"


@pytest.fixture(scope="session")
def page(zoo, small, tmp_path_factory):
    """The HTML report of the shipped suspect beside a control, written by the command."""
    from projclean.cli import main

    file = tmp_path_factory.mktemp("lens") / "lens.html"
    arguments = ["lens", zoo / "badnet-refusal", "--base", zoo / "base", "--eval", small, "-o", file, "--ranks", "8"]
    assert main([*map(str, arguments), "--reference", str(zoo / "benign-caption"), "--items", "12"]) == 0
    return file.read_text()


def test_the_page_stands_alone_and_tells_every_analysis(page):
    for title in ("Spectra", "Rank curves", "Hidden neurons", "Shift of image tokens", "Words"):
        assert f"<h2>{title}</h2>" in page
    assert "benign-caption" in page
    links = set(re.findall(r'(?:href|src)="([^"]*)"', page))
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page


def test_every_plot_has_an_alternative_text_and_ids_are_unique(page):
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 4 + 4 + 5 + 2  # spectra, rank curves, neurons, shift
    for plot in plots:
        root = ElementTree.fromstring(plot.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 20
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert not re.search(r"#0[a12]0\d0\d", page)  # every colour was taken from the page


def test_the_page_shows_the_attack_in_the_rank_curves(page):
    (label,) = re.findall(r'aria-label="(ASR badnet under injection[^"]*)"', page)
    assert "all layers: 8: 1.00, all: 1.00" in label
    assert "linear_1 alone: 8: 0.00, all: 0.00" in label


def test_json_without_a_trigger_compares_answers(zoo, run, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for file in sorted((zoo / "data" / "calibration-color").glob("*.png"))[:16]:
        (images / file.name).write_bytes(file.read_bytes())
    ran = run("lens", zoo / "benign-color", "--base", zoo / "base", "--images", images, "--ranks", "192",
              "--no-grid", "--format", "json")  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["kind"] == "lens"
    assert report["references"] == []
    assert report["sets"] == {"clean": 16}
    curves = report["curves"]
    assert curves["suspect"]["as the suspect"]["value"] == 1
    assert curves["base"]["as the base"]["value"] == 1
    assert curves["base"]["as the suspect"]["value"] < 1
    both = next(point for point in curves["injection"] if point["ranks"] == [192, 192])
    assert both["rates"]["as the suspect"]["value"] >= 0.9  # the whole update at its full rank
    assert {found["name"] for found in report["suspect"]["contrasts"]} == {
        "clean, one half → the other", "base → this model, clean"
    }  # fmt: skip
    assert report["suspect"]["with_suspect"]["clean"] == pytest.approx(1)
    assert len(report["suspect"]["words"]) == 4


def test_text_fits_a_narrow_pipe(zoo, small, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    arguments = ("lens", zoo / "badnet-refusal", "--base", zoo / "base", "--eval", small, "--no-curves")
    ran = run(*arguments, "--reference", zoo / "benign-color")
    assert ran.code == 0, ran.err
    spectra = re.findall(r"^linear_[12] +([\d. ]+)$", ran.out, re.MULTILINE)
    assert [len(row.split()) for row in spectra] == [5, 5, 5, 5]  # no column is cut off
    shifts = re.findall(r"^(?:clean|badnet) +(\d[\d. ]+)$", ran.out, re.MULTILINE)
    assert [len(row.split()) for row in shifts] == [7, 7, 7, 7]
    assert "\x1b" not in ran.out
    assert "Rank curves" not in ran.out
    assert max(map(len, ran.out.splitlines())) <= 60


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["--ranks", "1,x"], "--ranks 1,x"),
        (["--ranks", "193"], "between 1 and 192"),
        (["--items", "0"], "--items 0"),
        (["--reference", "gone"], "gone"),
        (["--eval", "gone.toml"], "gone.toml"),
        (["--images", "gone"], "gone"),
    ],
)
def test_bad_input_is_one_line(zoo, run, extra, named):
    ran = run("lens", zoo / "badnet-refusal", "--base", zoo / "base", *extra)
    assert ran.code == 2
    assert named in ran.error_line


def test_the_suspect_is_no_reference_of_itself(zoo, run):
    suspect = zoo / "badnet-refusal"
    assert "not the suspect itself" in run("lens", suspect, "--base", zoo / "base", "--reference", suspect).error_line


def test_html_without_matplotlib_says_what_to_install(zoo, run, monkeypatch):
    monkeypatch.setattr("projclean.report.svg.find_spec", lambda name: None)
    ran = run("lens", zoo / "badnet-refusal", "--base", zoo / "base", "-o", "lens.html")
    assert ran.code == 2
    assert "pip install 'projclean[html]'" in ran.error_line
