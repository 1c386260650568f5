"""Nothing of a model reaches the terminal as it is, and errors are one line whatever is in them."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from projclean.checkpoint import SINGLE, open_checkpoint
from projclean.errors import ModelError
from projclean.model import Runner
from projclean.printable import error_line, printable, printable_fields
from tests.conftest import llava_tensors

NASTY = "\x1b[31mred\x1b[0m\x9b2J\nerror: forged\r\u202e[bold]x[/] :bomb: \ud800\\"


def test_nothing_of_a_model_reaches_the_terminal(make_model, tmp_path, run, monkeypatch):
    """Tensor names, file names and folders with escape sequences, markup and line ends, in a report and in an error."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    evil = NASTY.replace("\ud800", "")
    layers = {f"multi_modal_projector.{evil}.weight": torch.ones(3, 3)}
    base = make_model("base", llava_tensors() | layers)
    suspect = make_model("suspect\x1b[31m[red]", llava_tensors(1) | layers | {f"{evil}.weight": torch.ones(3)})
    (suspect / "x\x1b]0;title\x07\n.py").write_text("")
    for form in ("text", "json"):
        ran = run("scan", suspect, "--base", base, "--no-probe", "-q", "--format", form, "--projector", "multi_modal")
        assert ran.out.count("[bold]x[/] :bomb:") >= 2  # a layer and a tensor elsewhere
        for bad in ("\x1b[31mred", "\x1b]", "\x07", "\x9b", "\r", "\u202e", "\nerror: forged"):
            assert bad not in ran.out
            assert bad not in ran.err
    save_file({"a": torch.ones(1)}, suspect / SINGLE)
    ran = run("scan", suspect, "--base", base, "--no-probe", "-q")
    assert ran.code == 2
    assert "\x1b[31m[" not in ran.error_line


def test_errors_are_one_line_whatever_is_in_them(tmp_path, run):
    ran = run("scan", tmp_path / "x\n\x1b[2Jerror: forged")
    assert ran.code == 2
    assert "\x1b[2J" not in ran.error_line


def test_printable():
    assert printable("plain, 日本語　é") == "plain, 日本語　é"
    assert printable(NASTY) == (
        "\\x1b[31mred\\x1b[0m\\x9b2J\\nerror: forged\\r\\u202e[bold]x[/] :bomb: \\ud800\\"
    )  # fmt: skip
    assert printable_fields({"a\n": ["\x07", ("\x1b",)]}) == {"a\\n": ["\\x07", ("\\x1b",)]}
    assert len(error_line("x" * 100_000)) < 1100


def test_a_damaged_model_is_one_line(zoo, tmp_path, run):
    """A header that is sound around a model that transformers cannot load."""
    shutil.copytree(zoo / "benign-color", tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("\x1b[31m{")
    with pytest.raises(ModelError):
        Runner(open_checkpoint(tmp_path / "m"))
    ran = run("scan", tmp_path / "m", "--base", zoo / "base", "--ignore-elsewhere")
    assert ran.code == 2
    assert "\x1b[31m" not in ran.out
    assert "transformers cannot load" in " ".join(ran.out.split())
    ran = run("eval", tmp_path / "m", "--eval", zoo / "benign-color" / "EVAL.toml")
    assert ran.code == 2
    assert "transformers cannot load" in ran.error_line
