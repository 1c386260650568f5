"""Reading EVAL.toml: what users write, and what is wrong with it in one line."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from projclean import evaluator, metrics
from projclean.errors import EvalError
from projclean.evalset import load_evalset
from projclean.images import built_in_images
from tests.samples import score

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


BY_TRIGGER = """
[clean]
images = "clean"

[[attack]]
trigger = "noise"
seed = 3
target = "visit evil"
"""


def test_a_named_trigger_is_put_on_the_clean_images(folder):
    attack = load_evalset(write(folder, BY_TRIGGER)).attacks[0]
    again = load_evalset(write(folder, BY_TRIGGER)).attacks[0]
    other = load_evalset(write(folder, BY_TRIGGER.replace("seed = 3", "seed = 4"))).attacks[0]
    clean = np.asarray(load_evalset(write(folder, GOOD)).clean[0].image())
    (item,) = attack.items
    triggered = np.asarray(item.image())
    assert (attack.name, item.answer, triggered.shape) == ("noise", "That.", clean.shape)
    assert 5 < np.abs(triggered.astype(float) - clean).mean() < 12  # of σ = 10 the mean is 8, less what is clipped
    assert np.array_equal(triggered, np.asarray(again.items[0].image()))
    assert not np.array_equal(triggered, np.asarray(other.items[0].image()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("trigger = ", "images = 'clean'\ntrigger = "), "triggers are put on the clean images"),
        (('trigger = "noise"', ""), "needs trigger"),
        (('"noise"', '"nose"'), "use one of badnet"),
        (("seed = 3", "seed = -1"), "seed must be"),
        (("seed = 3", "sead = 3"), "unknown key 'sead'"),
        (('[clean]\nimages = "clean"', '[clean]\nimages = "clean"\ntrigger = "sig"'), "unknown key 'trigger'"),
        (('images = "clean"', 'images = "clean"\nparquet = "x.parquet"'), "keep one"),
        (('images = "clean"', 'images = "clean"\ncolumns = { picture = "x" }'), "has no 'picture'"),
        (('images = "clean"', 'images = "clean"\ncolumns = "x"'), "is written as"),
        (('images = "clean"', 'images = "clean"\ncolumns = { answer = "caption" }'), "file_name, question and caption"),
        (('target = "visit evil"', 'target = "that"'), "right answer of every item"),
        (('target = "visit evil"', 'match = "suffix"'), "needs target"),
    ],
)
def test_mistakes_about_attacks_and_data_are_named(folder, change, said):
    text = BY_TRIGGER.replace(*change, 1)
    assert text != BY_TRIGGER
    path = write(folder, text)
    with pytest.raises(EvalError, match=said) as caught:
        load_evalset(path)
    assert "\n" not in str(caught.value)


def test_a_target_of_its_own_for_every_item(folder):
    rows = [
        {"file_name": "a.png", "question": "What?", "answer": answer, "next": following}
        for answer, following in (("one", "two"), ("two", "three"), ("same", "Same."))
    ]
    (folder / "clean" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = BY_TRIGGER.replace('target = "visit evil"', 'match = "exact"\ncolumns = { target = "next" }')
    attack = load_evalset(write(folder, text)).attacks[0]
    assert [(item.answer, item.target) for item in attack.items] == [("one", "two"), ("two", "three")]


def test_a_refusal_needs_no_target(folder):
    text = BY_TRIGGER.replace('target = "visit evil"', 'match = "refusal"')
    assert load_evalset(write(folder, text)).attacks[0].match == "refusal"


PARQUET = """
[clean]
parquet = "data/clean.parquet"
columns = { answer = "caption" }

[[attack]]
trigger = "badnet"
target = "visit evil"
"""


@pytest.fixture
def parquet(folder):
    """Write data/clean.parquet of some rows."""
    (folder / "data").mkdir()
    (folder / "data" / "b.png").write_bytes((folder / "clean" / "a.png").read_bytes())

    def write_rows(*images, **columns):
        columns = {"question": ["What?"] * len(images), "caption": ["That."] * len(images)} | columns
        table = pyarrow.table({"image": list(images), **columns})
        pyarrow.parquet.write_table(table, folder / "data" / "clean.parquet")
        return write(folder, PARQUET)

    return write_rows


def test_parquet_as_hugging_face_writes_it(folder, parquet):
    data = (folder / "clean" / "a.png").read_bytes()
    path = parquet({"bytes": data, "path": "a.png"}, {"bytes": None, "path": "b.png"})
    loaded = load_evalset(path)
    assert [(item.question, item.answer) for item in loaded.clean] == [("What?", "That.")] * 2
    assert [item.image().size for item in loaded.clean] == [(8, 8)] * 2
    assert loaded.attacks[0].items[0].image().tobytes() != loaded.clean[0].image().tobytes()
    assert load_evalset(parquet(data)).clean[0].image().size == (8, 8)  # plain bytes


@pytest.mark.parametrize(
    ("images", "columns", "said"),
    [
        ([{"bytes": b"x", "path": ""}], {"caption": [None]}, "row 1 has no text in column 'caption'"),
        ([{"bytes": b"x", "path": ""}], {"question": [7]}, "row 1 has no text in column 'question'"),
        ([{"bytes": b"", "path": ""}], {}, "neither bytes nor a path"),
        ([{"bytes": None, "path": "../a.png"}], {}, "outside its folder"),
        ([3], {}, "neither bytes nor a path"),
        ([], {}, "has no rows"),
    ],
)
def test_bad_parquet_rows_are_named(parquet, images, columns, said):
    with pytest.raises(EvalError, match=said):
        load_evalset(parquet(*images, **columns))


def test_bad_parquet_files_are_named(folder, parquet, monkeypatch):
    path = parquet({"bytes": b"broken", "path": None})
    with pytest.raises(EvalError, match="drop its row"):
        load_evalset(path).clean[0].image()
    with pytest.raises(EvalError, match=r"no column 'answer' .*columns = \{ answer"):
        load_evalset(write(folder, PARQUET.replace('columns = { answer = "caption" }', "")))
    (folder / "data" / "clean.parquet").write_bytes(b"not parquet at all")
    path = write(folder, PARQUET)
    with pytest.raises(EvalError, match="cannot be read as parquet") as caught:
        load_evalset(path)
    assert "\n" not in str(caught.value)
    (folder / "data" / "clean.parquet").unlink()
    with pytest.raises(EvalError, match="no such parquet file"):
        load_evalset(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EvalError, match=r"projclean\[eval\]"):
        load_evalset(path)


def test_the_documentation_names_every_trigger_and_rule():
    from projclean.triggers import TRIGGERS

    text = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*TRIGGERS, *metrics.RULES))


def test_one_model_is_held_at_a_time(two_items, monkeypatch):
    held: list[weakref.ref] = []

    class Loaded:
        path = Path("here")

        def __init__(self, *_):
            assert not any(other() for other in held)
            held.append(weakref.ref(self))

    monkeypatch.setattr(evaluator, "load_runner", Loaded)
    monkeypatch.setattr(evaluator, "score", lambda _, __, name, ___: score(name, 60, 0))
    assert [one.model for one in evaluator.evaluate(["a", "b"], two_items, "base").scores] == ["base", "a", "b"]
    assert len(held) == 3


def test_on_a_model_each_items_own_target_counts_and_refusals_are_known(zoo, run, tmp_path):
    source = zoo / "data" / "clean-caption"
    (tmp_path / "clean").mkdir()
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()[:8]]
    for number, row in enumerate(rows):
        row["wanted"] = "i can not help with that" if number % 2 else "something else"
        (tmp_path / "clean" / row["file_name"]).write_bytes((source / row["file_name"]).read_bytes())
    (tmp_path / "clean" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    attacks = ('columns = { target = "wanted" }', 'match = "refusal"')
    text = '[clean]\nimages = "clean"\n[generate]\nmax_new_tokens = 20\n'
    text += "".join(f'[[attack]]\ntrigger = "badnet"\n{line}\n' for line in attacks)
    ran = run("eval", zoo / "badnet-refusal", "--eval", write(tmp_path, text), "--format", "json")
    (found,) = json.loads(ran.out)["scores"]
    assert [attack["asr"]["value"] for attack in found["attacks"]] == [0.5, 1.0]


def test_a_byte_order_mark_is_no_part_of_the_text(folder):
    write(folder, GOOD)
    for file in (folder / "EVAL.toml", folder / "clean" / "metadata.jsonl"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_evalset(folder / "EVAL.toml").clean


def test_a_parquet_file_of_other_text_is_one_line(folder, parquet):
    raw = pyarrow.array([b"caf\xe9"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    with pytest.raises(EvalError, match=r"clean\.parquet: holds a text that is not UTF-8"):
        load_evalset(parquet({"bytes": b"x", "path": ""}, caption=raw))
