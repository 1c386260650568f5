"""The table runner: suites, resuming, repeating exactly, figures, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from eval import other_images, sensitivity, thousand, turned
from eval.benchmark import _rows, benchmark, run, write_tables
from eval.console import command_line
from eval.defences import DEFENCES, RESTORED, UNDEFENDED, Defence
from eval.figures import AttackFigures, Figures, ModelFigures
from eval.manifest import WORKS
from eval.measure import Settings, load_inputs, open_subject
from eval.store import Store
from eval.suites import load_suite
from eval.tables import markdown
from projclean.errors import OptionError
from projclean.methods import suspect_weights
from projclean.metrics import Difference, Rate
from projclean.utterance import Utterance
from tests.miniature import few_images
from tests.suites import subjects, written


@pytest.fixture(scope="module", autouse=True)
def few_built_in() -> Iterator[None]:
    """A dozen built-in images: nothing here probes."""
    with pytest.MonkeyPatch.context() as patch:
        few_images(patch)
        yield


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("suite"))


CHOSEN = (
    UNDEFENDED, RESTORED, "interpolation 0.5", "random removal k=4 seed 0", "OrthoPurify, right answers",
    "OrthoPurify, benign reference", "norm clip p50", "projclean reflect rank 1",
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(suite_file, tmp_path_factory):
    """The suite measured once with a few rows."""
    suite = load_suite(suite_file)
    store = Store(tmp_path_factory.mktemp("results") / "mini.json")
    defences = [defence for defence in DEFENCES if defence.name in CHOSEN]
    return suite, store, defences, run(subjects(suite), defences, store, scan=False)


def test_the_attack_works_undefended_and_not_on_the_base(measured):
    _, _, _, (attacked, benign) = measured
    assert [row.defence for row in attacked.rows] == list(CHOSEN)
    assert attacked.counts
    assert attacked.rows[0].asr >= WORKS
    assert attacked.row(RESTORED).asr == 0
    assert attacked.row("random removal k=4 seed 0").asr >= WORKS
    assert attacked.row("OrthoPurify, benign reference").note.startswith("hijacked directions")
    assert "norms clipped" in attacked.row("norm clip p50").note
    assert benign.row(UNDEFENDED).attacks == ()
    assert benign.row("OrthoPurify, benign reference").note.startswith("not applicable")


@pytest.mark.parametrize(("asr", "base", "counts"), [(0.95, 0.1, True), (0.95, 0.3, False), (0.85, 0.0, False)])
def test_what_the_base_does_with_a_trigger_anyway_is_no_attack(asr, base, counts):
    def row(defence, value):
        change = Difference(0.0, 0.0, 0.0, 1.0)
        return Figures(defence, "", attacks=(AttackFigures("x", Rate(value, 0, 1, 200), Rate(0, 0, 1, 200), change),))

    rows = (row(UNDEFENDED, asr), row(RESTORED, base))
    assert ModelFigures("m", 0, True, "x", 200, rows, None).counts is counts


def test_two_runs_of_one_row_agree_exactly(measured, tmp_path):
    suite, store, defences, _ = measured
    again = Store(tmp_path / "again.json")
    trained = [d for d in defences if d.name in (UNDEFENDED, RESTORED, "OrthoPurify, right answers", "norm clip p50")]
    run(subjects(suite)[:1], trained, again, scan=False)
    first, second = json.loads(store.file.read_text())["rows"], json.loads(again.file.read_text())["rows"]
    for defence in trained:
        assert first["badnet-refusal"][defence.name] == second["badnet-refusal"][defence.name]


def test_a_run_goes_on_where_it_stopped(measured, monkeypatch):
    suite, store, defences, before = measured

    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("eval.benchmark.load_inputs", refuse)
    assert run(subjects(suite), defences, Store(store.file), scan=False) == before
    with pytest.raises(AssertionError, match="measured again"):  # other settings are another measurement
        run(subjects(suite, seed=1), defences, Store(store.file), scan=False)
    # Tables of what is there: rows that some models lack are said to be of the others; models without any are left out.
    assert run(subjects(suite, seed=1), defences, Store(store.file), scan=False, measure=False) == []
    partly = Store(store.file)
    del partly._rows["benign-caption"]["interpolation 0.5"]
    figures = run(subjects(suite), defences, partly, scan=False, measure=False)
    assert figures[0] == before[0]
    assert figures[1].row("interpolation 0.5") is None
    page = markdown("mini", "", "", [*figures, before[1]], "mini.svg")
    line = next(line for line in page.splitlines() if line.startswith("| interpolation 0.5 |"))
    assert line.endswith("(1) |")
    assert "(1)" not in next(line for line in page.splitlines() if line.startswith("| norm clip p50 |"))


def test_the_command_in_a_table_leaves_out_what_changes_no_figure(monkeypatch):
    given = [
        "x",
        "models/tiny",
        "--out",
        "/some/where",
        "--fresh",
        "--limit",
        "5",
        "--out=/else",
        "--tables",
        "--no-scan",
    ]
    monkeypatch.setattr("sys.argv", given)
    assert command_line("eval.benchmark") == "python -m eval.benchmark models/tiny --limit 5 --no-scan"


def test_tables_of_nothing_are_one_line(suite_file, tmp_path):
    result = CliRunner().invoke(benchmark, [str(suite_file), "--tables", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "has no rows of these models" in result.stderr
    assert not list(tmp_path.iterdir())


def test_tables_and_plot_are_written_and_repeat(measured):
    suite, store, _, figures = measured
    command, of = "python -m eval.benchmark suite.toml", subjects(suite)
    text = write_tables(suite, of, figures, Settings(), store, "mini", command)
    assert text == store.file.with_suffix(".md").read_text()
    assert "only 6 items" in text
    assert (
        "at most 12 new tokens; rule for right answers: exact; for an attack's success: contains. Measured on cpu"
        in text
    )
    assert "What mini.json beside this page holds is not measured again without `--fresh`. CA" in text
    assert "| undefended | 1.00 · 100% |" in text
    assert "### badnet-refusal, trained with seed 1, n = 6 a set" in text
    assert "ASR" not in text.split("### benign-caption")[1]
    plot = store.file.with_suffix(".svg").read_bytes()
    assert b"<svg" in plot
    write_tables(suite, of, figures, Settings(), store, "mini", command)
    assert store.file.with_suffix(".svg").read_bytes() == plot
    assert json.loads(store.file.read_text())["figures"][0]["name"] == "badnet-refusal"


def test_only_the_defences_asked_for_are_measured_beside_the_two_that_all_are_paired_with():
    assert [d.name for d in _rows(["OrthoPurify", "interpolation 0.5"], [], sample=False)] == [
        UNDEFENDED, RESTORED, "interpolation 0.5", "OrthoPurify, own answers", "OrthoPurify, right answers",
        "OrthoPurify, benign reference",
    ]  # fmt: skip
    assert [d.name for d in _rows(["projclean rank auto"], [], sample=False)][2:] == ["projclean rank auto"]  # not both
    assert _rows([], [], sample=False) == list(DEFENCES)
    assert [d.name for d in _rows(["CLP"], ["CLP u=1", UNDEFENDED], sample=False)] == [UNDEFENDED, RESTORED, "CLP u=3"]
    for option, lists in (("--defence", (["nonsense"], [])), ("--without", ([], ["nonsense"]))):
        with pytest.raises(OptionError, match=f"{option} nonsense"):
            _rows(*lists, sample=False)


def test_a_repair_is_measured_with_other_images_and_goes_on_where_it_stopped(suite_file, tmp_path, monkeypatch):
    monkeypatch.setattr(sensitivity, "COUNTS", (8,))
    cheap = {name: make for name, make in sensitivity.METHODS.items() if name.startswith("reflect")}
    monkeypatch.setattr(sensitivity, "METHODS", cheap)
    command = [str(suite_file), "--model", "badnet-refusal", "--limit", "4", "--device", "cpu", "--out", str(tmp_path)]
    first = CliRunner().invoke(sensitivity.sensitivity, command)
    assert first.exit_code == 0, first.output
    [name] = cheap
    rows = json.loads((tmp_path / "mini-sensitivity.json").read_text())["rows"]["badnet-refusal"]
    sources = ["8 of the domain", "64 of the base's domain", "built-in"]
    assert list(rows) == [UNDEFENDED, RESTORED, *(f"{name}: {source}" for source in sources)]
    assert len({row["correct"] + row["attacks"][0]["hits"] for row in rows.values()}) > 2
    monkeypatch.setattr(other_images, "load_inputs", None)
    again = CliRunner().invoke(sensitivity.sensitivity, command)
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    refused = CliRunner().invoke(sensitivity.sensitivity, [str(suite_file), "--model", "gone"])
    assert refused.exit_code == 2
    assert "no such models" in refused.stderr


def test_the_comparison_with_many_images_gives_every_method_the_same_with_their_right_answers(
    suite_file, tmp_path, monkeypatch
):
    assert len(thousand.METHODS) == len(thousand.AGAIN) + 2
    given = []

    def seen(inputs):
        given.append(inputs)
        return suspect_weights(inputs.update)

    stands = Defence("three", "one", seen, instead=lambda name: "two" if name == "badnet-refusal" else None)
    monkeypatch.setattr(thousand, "IMAGES", 5)
    monkeypatch.setattr(thousand, "METHODS", (Defence("one", "one", seen), Defence("two", "two", seen), stands))
    command = [str(suite_file), "--model", "badnet-refusal", "--limit", "4", "--device", "cpu", "--out", str(tmp_path)]
    done = CliRunner().invoke(thousand.thousand, command)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "mini-thousand.json").read_text())["rows"]["badnet-refusal"]
    assert list(rows) == [UNDEFENDED, RESTORED, "never poisoned", "one", "two"]  # the third is not measured twice
    told = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| two ", "| three "))]
    assert len(told) == 2
    assert told[0][1:] == told[1][1:]
    assert given[0] is given[1]
    assert len(given) == 2
    assert len(given[0].images) == len(given[0].right_answers) == 5
    assert len(set(given[0].right_answers)) > 1


def test_what_turning_cost_is_learnt_from_many_images_and_directions_are_told_from_those_a_model_came_with(
    suite_file, tmp_path, monkeypatch
):
    given = []

    def seen(inputs):
        given.append(inputs)
        return suspect_weights(inputs.update)

    monkeypatch.setattr(turned, "IMAGES", 5)
    monkeypatch.setattr(turned, "TURNED", Defence("turned", "one", seen))
    command = [str(suite_file), "--model", "badnet-refusal", "--limit", "4", "--device", "cpu", "--out", str(tmp_path)]
    done = CliRunner().invoke(turned.turned, command)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "mini-turned.json").read_text())["rows"]["badnet-refusal"]
    assert list(rows) == [UNDEFENDED, RESTORED, "turned"]
    own = load_inputs(open_subject(load_suite(suite_file).models[0], load_suite(suite_file), Settings()))
    layer = next(iter(own.moments))
    assert len(given[0].images) == 5 != len(own.images)
    assert torch.equal(given[0].moments[layer].total, own.moments[layer].total)


def test_what_is_heard_of_a_model_is_read_from_what_was_measured(tmp_path, monkeypatch):
    def said(text, excess):
        return asdict(Utterance(text, text, "", 0.5, 0.0, 0.0, 0.0, 0.5, agreement=1.0, excess=excess))

    rows = {
        "loud": {"words": {"utterances": [said("ring", 0.2), said("cross", 0.4)]}},
        "quiet": {"words": {"utterances": [said("ring", 0.05)]}},
        "plain": {"words": {"utterances": [said("ring", 0.5)]}},
        "not scanned": {"words": {"utterances": [said("ring", 0.5)]}},
    }
    text = Utterance("buy cheap tickets now", "buy cheap tickets now", "", 1.0, 0.0, 0.0, 2.0, 0.9)
    heard = {"loud": [], "quiet": [], "plain": [asdict(text)]}
    scans = {name: {"seed 0": {"utterances": each}} for name, each in heard.items()}
    (tmp_path / "words.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "scans.json").write_text(json.dumps({"rows": scans}))
    monkeypatch.setattr(thousand, "HEARD", tmp_path / "words.json")
    monkeypatch.setattr(thousand, "SCANNED", tmp_path / "scans.json")
    monkeypatch.setattr(thousand, "_words", cache(thousand._words.__wrapped__))
    # Where something is heard plainly, or nothing was, no word is looked for.
    assert [thousand._word(name) for name in ("loud", "quiet", "plain", "not scanned", "gone")] == ["cross", *[""] * 4]
    assert [thousand._unheard(name) for name in ("loud", "quiet")] == [None, "projclean distill from 0"]


def test_a_results_file_of_something_else_is_refused(tmp_path, suite_file):
    (tmp_path / "mini.json").write_text("[]")
    result = CliRunner().invoke(benchmark, [str(suite_file), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "not a results file" in result.stderr
