"""A written model is complete or not there, and everything but the replaced bytes survives."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from projclean import staging, writer
from projclean.checkpoint import open_checkpoint, read_tensor
from projclean.errors import OutputError
from tests.conftest import llava_tensors

WEIGHT = "multi_modal_projector.linear_1.weight"


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=[1, 3], ids=["single", "sharded"])
def source(make_model, request):
    folder = make_model("source", {k: v.bfloat16() for k, v in llava_tensors().items()}, request.param)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "extra").mkdir()
    (folder / "extra" / "note.txt").write_text("kept")
    return open_checkpoint(folder)


def test_only_the_named_tensor_changes(source, tmp_path):
    before = tree(source.path)
    new = torch.full((20, 12), 1.5)
    writer.write_model(source, {WEIGHT: new}, tmp_path / "out", "## Note\n\ntext", force=False)
    assert tree(source.path) == before
    out = open_checkpoint(tmp_path / "out")
    assert torch.equal(read_tensor(out, WEIGHT), new.bfloat16())
    for name in source.tensors:
        assert out.tensors[name].dtype == "BF16"
        if name != WEIGHT:
            assert torch.equal(read_tensor(out, name), read_tensor(source, name))
    after = tree(tmp_path / "out")
    assert after.pop("README.md") == b"## Note\n\ntext\n"
    changed = source.tensors[WEIGHT].file.name
    assert {name for name in before if before[name] != after[name]} == {changed}
    assert len(before[changed]) == len(after[changed])
    with safe_open(tmp_path / "out" / changed, framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}


def test_model_card_is_kept_and_extended(source, tmp_path):
    (source.path / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    writer.write_model(open_checkpoint(source.path), {}, tmp_path / "out", "## Note", force=False)
    assert (tmp_path / "out" / "README.md").read_text() == "---\nlicense: mit\n---\n# Mine\n\n## Note\n"


def test_links_into_a_cache_are_followed(source, tmp_path):
    """A hub cache as huggingface_hub lays it out: relative links from snapshots/REVISION to blobs."""
    linked, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(path for path in source.path.rglob("*") if path.is_file()):
        shutil.copy(file, blobs / str(number))
        link = linked / file.relative_to(source.path)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("../" * (len(link.relative_to(linked).parts) + 1)) / "blobs" / str(number))
    writer.write_model(open_checkpoint(linked), {}, tmp_path / "out", "## Note", force=False)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert (tmp_path / "out" / "extra" / "note.txt").read_text() == "kept"


def test_existing_output_needs_force_and_is_replaced_whole(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    (out / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="--force"):
        writer.write_model(source, {}, out, "## Note", force=False)
    assert tree(out) == {"old.txt": b"old", "config.json": b"{}"}
    writer.write_model(source, {}, out, "## Note", force=True)
    assert "old.txt" not in tree(out)
    assert "config.json" in tree(out)


@pytest.mark.parametrize("where", ["same", "inside", "around", "file", "no parent", "link", "endless name"])
def test_outputs_that_are_refused(source, tmp_path, where):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    out = {
        "same": source.path,
        "inside": source.path / "out",
        "around": source.path.parent,
        "file": tmp_path / "file",
        "no parent": tmp_path / "a" / "b",
        "link": tmp_path / "link",
        "endless name": tmp_path / ("x" * 300),
    }[where]
    before = tree(tmp_path)
    with pytest.raises(OutputError) as caught:
        writer.write_model(source, {}, out, "## Note", force=True)
    assert str(out) in str(caught.value) or str(out.parent) in str(caught.value)
    assert tree(tmp_path) == before


def test_an_output_around_a_bare_projector_is_refused(pair, run, tmp_path):
    """What is written is the base's directory, but the suspect lies in the folder that would be replaced."""
    _, base = pair
    (tmp_path / "mine").mkdir()
    bare = tmp_path / "mine" / "projector.safetensors"
    projector = {name: tensor for name, tensor in llava_tensors(1).items() if "projector" in name}
    save_file(projector, bare, {"format": "pt"})
    (tmp_path / "link.safetensors").symlink_to(bare)
    before = tree(tmp_path)
    for named in (bare, tmp_path / "link.safetensors"):
        arguments = ["--base", base, "--method", "interpolate", "--strength", "0.5", "--force"]
        ran = run("repair", named, "--out", tmp_path / "mine", *arguments)
        assert (ran.code, "overlaps" in ran.error_line) == (2, True)
    assert tree(tmp_path) == before


def test_an_output_around_the_link_that_names_the_model_is_refused(source, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "model").symlink_to(source.path)
    with pytest.raises(OutputError, match="overlaps"):
        writer.check_output(open_checkpoint(tmp_path / "links" / "model"), tmp_path / "links", force=True)


def test_an_output_that_the_file_system_knows_under_another_name_is_refused(source, tmp_path, monkeypatch):
    """As where case does not count."""
    monkeypatch.setattr(Path, "samefile", lambda one, other: str(one).lower() == str(other).lower())
    for out in (tmp_path / "SOURCE", tmp_path / "Source" / "out"):
        with pytest.raises(OutputError, match="overlaps"):
            writer.check_output(source, out, force=True)
    writer.check_output(source, tmp_path / "other", force=True)


@pytest.mark.parametrize("step", ["_copy", "_overwrite", "_append_card", "_flush", "put_in_place"])
@pytest.mark.parametrize("existing", [False, True], ids=["fresh", "force"])
def test_a_failure_at_any_step_leaves_nothing(source, tmp_path, monkeypatch, step, existing):
    out = tmp_path / "out"
    if existing:
        shutil.copytree(source.path, out)
    before = tree(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, step, fail)
    with pytest.raises(OutputError, match="No space left"):
        writer.write_model(source, {WEIGHT: torch.zeros(20, 12)}, out, "## Note", force=True)
    assert tree(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == ({"source", "out"} if existing else {"source"})


@pytest.mark.parametrize("damage", [0, errno.ENOSYS, errno.EIO], ids=["exchange", "two steps", "failing"])
def test_replacing_an_output(source, tmp_path, monkeypatch, damage):
    """By exchange, in two steps where names cannot be exchanged, and not at all when neither works."""
    out = tmp_path / "out"
    shutil.copytree(source.path, out)
    (out / "old.txt").write_text("old")
    (out / "config.json").write_text("{}")
    before = tree(tmp_path)
    if damage:

        def fail(*_):
            raise OSError(damage, os.strerror(damage))

        monkeypatch.setattr(staging, "_rename", fail)
    if damage == errno.EIO:
        with pytest.raises(OutputError):
            writer.write_model(source, {}, out, "## Note", force=True)
        assert tree(tmp_path) == before
    else:
        writer.write_model(source, {}, out, "## Note", force=True)
        assert "old.txt" not in tree(out)
        assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def test_failed_second_step_brings_the_old_output_back(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(source.path, out)
    (out / "old.txt").write_text("old")
    (out / "config.json").write_text("{}")
    before = tree(tmp_path)
    rename = type(out).rename

    def fail_for_partial(self, target):
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    def unsupported(*_):
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(staging, "_rename", unsupported)
    monkeypatch.setattr(type(out), "rename", fail_for_partial)
    with pytest.raises(OutputError):
        writer.write_model(source, {}, out, "## Note", force=True)
    assert tree(tmp_path) == before


def test_what_killed_runs_left_is_cleaned_up(source, tmp_path):
    """A dead run's partial directory goes, a live one's and other outputs' stay, an output moved aside comes back."""
    out = tmp_path / "out"
    (tmp_path / ".out.partial-dead").mkdir()
    (tmp_path / ".out.partial-dead" / "half").write_text("x")
    (tmp_path / ".other.partial-dead").mkdir()
    with staging.staging(out) as live:
        writer.write_model(source, {}, out, "## Note", force=False)
        assert live.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out", ".other.partial-dead"}
    (tmp_path / ".out.old-dead").mkdir()
    out.rename(tmp_path / ".out.old-dead" / "output")
    with pytest.raises(OutputError, match="--force"):
        writer.write_model(source, {}, out, "## Note", force=False)
    assert "config.json" in tree(out)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out", ".other.partial-dead"}


def test_output_is_readable_by_others(source, tmp_path):
    writer.write_model(source, {}, tmp_path / "out", "## Note", force=False)
    assert (tmp_path / "out").stat().st_mode & 0o055 == 0o055 & ~writer.umask()


def test_metadata_beyond_the_format_survives(tmp_path, make_model):
    folder = make_model("m", llava_tensors())
    save_file(llava_tensors(), folder / "model.safetensors", {"format": "pt", "author": "someone"})
    source = open_checkpoint(folder)
    writer.write_model(source, {WEIGHT: torch.zeros(20, 12)}, tmp_path / "out", "## Note", force=False)
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as handle:
        assert handle.metadata() == {"format": "pt", "author": "someone"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llava"


@pytest.mark.parametrize("names", [("m" * 60 + "-a", "m" * 60 + "-b"), ("out.old-a", "out")], ids=["long", "alike"])
def test_what_another_output_left_stays(tmp_path, names):
    """Though its name begins like this one's, or goes on like a hidden name."""
    theirs, ours = (tmp_path / name for name in names)
    aside = tmp_path / f"{staging._prefix(theirs, 'old')}dead"
    (aside / "output").mkdir(parents=True)
    with staging.staging(ours):
        pass
    assert (aside / "output").is_dir()
    assert not ours.exists()
    with staging.staging(theirs):
        pass
    assert theirs.is_dir()
    assert not aside.exists()


@pytest.mark.parametrize("option", ["--images", "--eval", "--thresholds"])
def test_what_is_read_is_not_replaced(pair, run, tmp_path, option):
    suspect, base = pair
    work = tmp_path / "work"
    (work / "images").mkdir(parents=True)
    (work / "config.json").write_text("{}")
    for number in range(8):
        Image.new("RGB", (8, 8)).save(work / "images" / f"{number}.png")
    line = json.dumps({"file_name": "0.png", "question": "What?", "answer": "black"})
    (work / "images" / "metadata.jsonl").write_text(line)
    (tmp_path / "EVAL.toml").write_text('[clean]\nimages = "work/images"\n')
    (work / "own.json").write_text('{"foreign": {"suspicious": 0.9, "clean": 0.8}}')
    given = {"--images": work / "images", "--eval": tmp_path / "EVAL.toml", "--thresholds": work / "own.json"}[option]
    before = tree(tmp_path)
    ran = run(
        "repair", suspect, "--base", base, "--out", work, "--force", option, given,
        "--method", "interpolate", "--strength", "0.5",
    )  # fmt: skip
    assert (ran.code, "which is read" in ran.error_line) == (2, True)
    assert tree(tmp_path) == before


def test_force_replaces_nothing_but_a_model(source, tmp_path):
    (tmp_path / "work").mkdir()
    writer.check_output(source, tmp_path / "work", force=True)
    (tmp_path / "work" / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="is no model"):
        writer.check_output(source, tmp_path / "work", force=True)
    (tmp_path / "work" / "adapter_config.json").write_text("{}")
    writer.check_output(source, tmp_path / "work", force=True)


def test_model_and_report_need_places_of_their_own(pair, run, tmp_path):
    suspect, base = pair
    ran = run("repair", suspect, "--base", base, "--out", tmp_path / "both", "-o", tmp_path / "both")
    assert (ran.code, "--out and -o" in ran.error_line) == (2, True)
    assert not (tmp_path / "both").exists()
