"""One input: make it, feed it to projclean, and see that every promise held."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from random import Random

from eval.fuzz import inputs
from eval.fuzz.lora import rewrite
from projclean import errors

RESULT = "result"
WEIGHT = "multi_modal_projector.linear_1.weight"


class Broken(AssertionError):
    """A promise that an input broke without raising by itself."""


def try_input(kind: str, seed: str, workplace: Path) -> tuple[str, bool, bool]:
    """Make one input in `workplace` and feed it to projclean.

    Returns the outcome (result, or the class of the documented error), whether a repaired model was written from it,
    and whether it went through the command line. Anything else is raised.
    """
    rng = Random(f"{kind}:{seed}")
    shutil.rmtree(workplace, ignore_errors=True)
    folder = workplace / "suspect"
    folder.mkdir(parents=True)
    inputs.lay_out(kind, rng, folder)
    base = workplace / "base"
    base.mkdir()
    inputs.write(base, inputs.good_files(1))
    written = False
    try:
        if kind == "evalset":
            _load_evalset(folder)
        elif kind == "picture":
            _load_pictures(folder)
        else:
            path = folder / inputs.BARE if kind == "header" else folder
            given = str(base) if kind in ("header", "lora") or rng.random() < 0.6 else None
            if rng.random() < 0.05:
                return _command_line(path, given, rng.choice(["text", "json"])), False, True
            scan_and_render(path, given, ["text", "json"][rng.random() < 0.05])
            if kind == "header":
                _compare_with_the_library(path)
            elif kind == "lora":
                before = _tree(folder)
                rewrite(folder, base, workplace / "out")
                written = True
                if _tree(folder) != before:
                    raise Broken("the adapter changed")
            elif rng.random() < 0.15:
                _write(folder, workplace / "out")
                written = True
    except errors.ProjcleanError as error:
        _check_message(error)
        return type(error).__name__, False, False
    return RESULT, written, False


def scan_and_render(path: Path, base: str | None, form: str) -> None:
    """Scan without the probe and render the report in a form that nothing in it can break out of."""
    from projclean.report import render
    from projclean.scanner import scan

    result = scan(path, base=base, probe=False)
    text = _check_output(render(result, form, plain=True))
    if form == "json":
        json.loads(text)


def _command_line(path: Path, base: str | None, form: str) -> str:
    from projclean.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["scan", str(path), "--no-probe", "--format", form, *(["--base", base] if base else [])])
    _check_output(out.getvalue())
    _check_output(err.getvalue())
    lines = err.getvalue().splitlines()
    if not lines and out.getvalue() and code in (0, 1, 2):
        return RESULT
    if len(lines) == 1 and lines[0].startswith("error: ") and not out.getvalue() and code == 2:
        if "this is a bug in projclean" in lines[0]:
            raise Broken(lines[0])
        return "ProjcleanError"
    raise Broken(f"exit {code}, {len(lines)} lines on stderr: {err.getvalue()[-2000:]}")


def _load_evalset(folder: Path) -> None:
    from projclean.evalset import load_evalset

    loaded = load_evalset(folder / "EVAL.toml")
    for item in (*loaded.clean, *(item for attack in loaded.attacks for item in attack.items)):
        item.image()


def _load_pictures(folder: Path) -> None:
    from projclean.images import image_files, read_image

    for file in image_files(folder):
        read_image(file)


def _compare_with_the_library(path: Path) -> None:
    """What is accepted here, safetensors accepts too, and sees the same."""
    from safetensors import safe_open

    from projclean.checkpoint import open_checkpoint

    ours = open_checkpoint(path).tensors
    with safe_open(path, framework="pt") as handle:
        theirs = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - a handle, not a dict
        if {n: (e.dtype, list(e.shape)) for n, e in ours.items()} != {
            n: (s.get_dtype(), s.get_shape()) for n, s in theirs.items()
        }:
            raise Broken("safetensors reads another header")


def _write(folder: Path, out: Path) -> None:
    """A written model differs from its source in the replaced bytes and the card alone; the source stays."""
    import torch

    from projclean.checkpoint import open_checkpoint
    from projclean.writer import CARD, write_model

    source = open_checkpoint(folder)
    before = {} if _is_huge(folder) else _tree(folder)
    entry = source.tensors.get(WEIGHT)
    tensors = {WEIGHT: torch.full(entry.shape, 2.0)} if entry is not None and entry.dtype == "BF16" else {}
    write_model(source, tensors, out, "## Note", force=False)
    after = _tree(out)
    if _tree(folder) != before:
        raise Broken("the source changed")
    if set(after) != set(before) | {CARD}:
        raise Broken(f"files {sorted(set(after) ^ set(before))}")
    changed = {name for name in before if before[name] != after[name]} - {CARD}
    if not changed <= ({entry.file.name} if entry is not None else set()):
        raise Broken(f"changed {sorted(changed)}")
    open_checkpoint(out)


def _is_huge(folder: Path) -> bool:
    """A sparse file far larger than the disk: the writer has to refuse it, there is nothing to compare."""
    return any(path.stat().st_size > 1 << 30 for path in folder.rglob("*") if path.is_file())


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _check_message(error: errors.ProjcleanError) -> None:
    from projclean.printable import error_line

    line = _check_output(error_line(str(error)))
    if not line.strip() or "\n" in line or len(line) > 1100:
        raise Broken(f"no message for a user: {line[:200]!r}") from error


def _check_output(text: str) -> str:
    """Nothing that a terminal would act upon, and nothing that cannot be written."""
    text.encode("utf-8")
    bad = sorted({char for char in text if not char.isprintable() and char not in "\n" and not char.isspace()})
    if bad:
        raise Broken(f"control characters in the output: {bad!r}")
    return text
