"""Reading EVAL.toml: what users write, and what is wrong with it in one line."""

from __future__ import annotations

import json

import pytest

from projclean.errors import EvalError
from projclean.evalset import load_evalset
from projclean.images import built_in_images

GOOD = """
[clean]
images = "clean"
match = "contains"

[[attack]]
name = "patch"
images = "clean"
target = "visit evil"

[generate]
max_new_tokens = 7
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clean").mkdir()
    built_in_images(1, size=8)[0].save(tmp_path / "clean" / "a.png")
    row = {"file_name": "a.png", "question": "What?", "answer": "That."}
    (tmp_path / "clean" / "metadata.jsonl").write_text(json.dumps(row) + "\n\n")
    return tmp_path


def write(folder, text):
    path = folder / "EVAL.toml"
    path.write_text(text)
    return path


def test_a_whole_file(folder):
    loaded = load_evalset(write(folder, GOOD))
    (item,) = loaded.clean
    assert (item.question, item.answer, item.image().size) == ("What?", "That.", (8, 8))
    (attack,) = loaded.attacks
    assert (attack.name, attack.target, attack.match) == ("patch", "visit evil", "contains")
    assert (loaded.match, loaded.max_new_tokens) == ("contains", 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[clean]", "[claen]"), "unknown section"),
        (('match = "contains"', 'match = "roughly"'), "use one of exact"),
        (('images = "clean"', 'images = "gone"'), "metadata.jsonl"),
        (('target = "visit evil"', ""), "needs target"),
        (("[[attack]]", "[attack]"), "written as"),
        (("= 7", "= 0"), "max_new_tokens"),
        (("[clean]", "[clean"), "TOML"),
    ],
)
def test_mistakes_are_named(folder, change, said):
    path = write(folder, GOOD.replace(*change, 1))
    with pytest.raises(EvalError, match=said) as caught:
        load_evalset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["not json", "[]", '{"file_name": "a.png", "question": "q"}'])
def test_bad_metadata_names_its_line(folder, line):
    (folder / "clean" / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(EvalError, match="line 1"):
        load_evalset(write(folder, GOOD))


def test_missing_file_and_damaged_image(folder):
    with pytest.raises(EvalError, match="no such evaluation file"):
        load_evalset(folder / "nowhere.toml")
    (folder / "clean" / "a.png").write_bytes(b"broken")
    loaded = load_evalset(write(folder, GOOD))
    with pytest.raises(EvalError, match=r"a\.png"):
        loaded.clean[0].image()
