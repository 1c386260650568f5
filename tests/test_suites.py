"""Suites: how they are read, what a row's digest holds, and what the known answers are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from eval import measure, shapes
from eval.benchmark import benchmark
from eval.recipes import Recipe
from eval.suites import each_family, load_suite, part_of, sample_of
from eval.zoo import SHIPPED
from tests.suites import N, pictures, subjects, written


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("suite"))


def test_a_folder_is_a_suite(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    pictures(tmp_path / "data" / "clean-caption", 0)
    pictures(tmp_path / "data" / "calibration-caption", 1)
    for name, attack in (("z", ""), ("b", "badnet"), ("c", "sig"), ("d", "sig"), ("e", ""), ("repaired", "badnet")):
        folder = tmp_path / name
        folder.mkdir()
        text = '[clean]\nimages = "../data/clean-caption"\n'
        if attack:
            text += f'[[attack]]\nname = "{attack}"\nimages = "../data/clean-caption"\ntarget = "x"\n'
        (folder / "EVAL.toml").write_text(text)
    assert [model.name for model in load_suite(tmp_path).models] == ["b", "c", "d", "e", "repaired", "z"]
    recipes = tuple(Recipe(name, seed) for seed, name in enumerate("zbcde"))
    monkeypatch.setattr("eval.suites.RECIPES", recipes)
    monkeypatch.setattr("eval.suites.HELD_BACK", frozenset("z"))
    suite = load_suite(tmp_path)
    models = {model.name: model for model in suite.models}
    assert list(models) == list("zbcde")
    assert (models["b"].seed, models["b"].calibration.name) == (1, "calibration-caption")
    assert models["b"].benign_reference.name == "z"
    assert models["z"].benign_reference.name == "e"
    assert {model.name for model in part_of(suite, "calibration")} == {"z"}
    assert [model.name for model in sample_of(part_of(suite, "report"))] == ["b", "c", "e"]
    monkeypatch.setattr("eval.suites.DEMONSTRATED", frozenset("zde"))
    assert [model.name for model in sample_of(part_of(suite, "report"))] == ["d", "e"]
    assert [model.name for model in each_family(suite.models, 1)] == ["z", "b", "c"]
    assert [model.name for model in each_family(suite.models, 2)] == list("zbcde")
    monkeypatch.setattr("eval.suites.counts", lambda name: name != "z")
    assert [model.name for model in each_family(suite.models, 1)] == ["b", "c", "e"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "no such folder of models"),
        ("tier = 'x'", "lists no [[model]]"),
        ("[[model]]\nname = 'x'", 'needs path = "…"'),
        ("base = 'b'\n[[model]]\nname = 'x'\npath = 'gone'\neval = 'e'", "gone: no such file"),
    ],
)
def test_what_is_absent_is_one_line(tmp_path, text, word):
    file = tmp_path / "suite.toml"
    if text is not None:
        file.write_text(text)
    result = CliRunner().invoke(benchmark, [str(file), "--out", str(tmp_path)])
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert word in line
    assert result.stdout == ""
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("attacked.toml", 'trigger = "badnet"', 'trigger = "sig"'),
        ("attacked.toml", "seed = 0", "seed = 1"),
        ("attacked.toml", 'target = "question"', 'target = "file_name"'),
        ("calibration/metadata.jsonl", shapes.CAPTION, "What is it?"),
        ("suite.toml", "benign-color.safetensors", "benign-caption.safetensors"),
    ],
)
def test_what_a_row_depends_on_is_in_its_digest(suite_file, tmp_path, file, old, new):
    folder = tmp_path / "suite"
    shutil.copytree(suite_file.parent, folder)
    attacked = folder / "attacked.toml"
    clean = attacked.read_text().split("[[attack]]")[0]
    columns = 'columns = { target = "question" }'  # what is wanted differs from item to item
    attacked.write_text(f'{clean}[[attack]]\nname = "it"\ntrigger = "badnet"\nseed = 0\n{columns}\n')
    listed = (folder / "suite.toml").read_text()
    reference = f'benign_reference = "{SHIPPED / "benign-caption.safetensors"}"'
    assert reference in listed
    (folder / "suite.toml").write_text(listed.replace(reference, reference.replace("caption", "color")))

    def digest() -> str:
        return subjects(load_suite(folder / "suite.toml"))[0].digest

    before = digest()
    assert digest() == before
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    assert digest() != before


def test_of_a_parquet_file_what_is_asked_is_in_the_digest(suite_file, tmp_path):
    """Each row's own image, not the whole file for each."""
    folder = tmp_path / "suite"
    shutil.copytree(suite_file.parent, folder)
    rows = [json.loads(line) for line in (folder / "clean" / "metadata.jsonl").read_text().splitlines()]
    images = [{"bytes": (folder / "clean" / row["file_name"]).read_bytes(), "path": None} for row in rows]
    texts = {key: [row[key] for row in rows] for key in ("question", "answer")}
    for path in ("benign.toml", "attacked.toml"):
        text = (folder / path).read_text()
        (folder / path).write_text(text.replace('images = "clean"', 'parquet = "clean.parquet"'))

    def digest(given: list[dict], **more: list[str]) -> str:
        pyarrow.parquet.write_table(pyarrow.table({"image": given, **texts, **more}), folder / "clean.parquet")
        return subjects(load_suite(folder / "suite.toml"))[1].digest

    assert digest(images) == digest(images, remark=["never asked for"] * N)
    assert digest(images) != digest([*images[1:], images[0]])


def test_right_answers_are_known_only_where_the_same_is_asked(suite_file):
    folder = suite_file.parent / "calibration"
    assert len(measure._known_answers(folder, {shapes.CAPTION})) == N
    assert measure._known_answers(folder, {"What color is the shape?"}) is None
    assert measure._known_answers(None, {shapes.CAPTION}) is None
