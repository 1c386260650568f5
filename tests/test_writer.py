"""A written model is complete or not there, and everything but the replaced bytes survives."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from projclean import writer
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
    writer.write_model(source, {}, tmp_path / "out", "## Note", force=False)
    assert (tmp_path / "out" / "README.md").read_text() == "---\nlicense: mit\n---\n# Mine\n\n## Note\n"


def test_links_into_a_cache_are_followed(source, tmp_path):
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for file in source.path.iterdir():
        (linked / file.name).symlink_to(file)
    writer.write_model(open_checkpoint(linked), {}, tmp_path / "out", "## Note", force=False)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert (tmp_path / "out" / "extra" / "note.txt").read_text() == "kept"


def test_existing_output_needs_force_and_is_replaced_whole(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    with pytest.raises(OutputError, match="--force"):
        writer.write_model(source, {}, out, "## Note", force=False)
    assert tree(out) == {"old.txt": b"old"}
    writer.write_model(source, {}, out, "## Note", force=True)
    assert "old.txt" not in tree(out)
    assert "config.json" in tree(out)


@pytest.mark.parametrize("where", ["same", "inside", "around", "file", "no parent"])
def test_outputs_that_are_refused(source, tmp_path, where):
    (tmp_path / "file").write_text("x")
    out = {
        "same": source.path,
        "inside": source.path / "out",
        "around": source.path.parent,
        "file": tmp_path / "file",
        "no parent": tmp_path / "a" / "b",
    }[where]
    before = tree(tmp_path)
    with pytest.raises(OutputError) as caught:
        writer.write_model(source, {}, out, "## Note", force=True)
    assert str(out) in str(caught.value) or str(out.parent) in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("step", ["_copy", "_overwrite", "_append_card", "_flush", "_swap"])
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


def test_failed_rename_brings_the_old_output_back(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(source.path, out)
    (out / "old.txt").write_text("old")
    before = tree(tmp_path)
    rename = type(out).rename

    def fail_for_partial(self, target):
        if ".partial-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", fail_for_partial)
    with pytest.raises(OutputError):
        writer.write_model(source, {}, out, "## Note", force=True)
    assert tree(tmp_path) == before


def test_output_is_readable_by_others(source, tmp_path):
    writer.write_model(source, {}, tmp_path / "out", "## Note", force=False)
    assert (tmp_path / "out").stat().st_mode & 0o055 == 0o055 & ~writer._umask()


def test_metadata_beyond_the_format_survives(tmp_path, make_model):
    folder = make_model("m", llava_tensors())
    save_file(llava_tensors(), folder / "model.safetensors", {"format": "pt", "author": "someone"})
    source = open_checkpoint(folder)
    writer.write_model(source, {WEIGHT: torch.zeros(20, 12)}, tmp_path / "out", "## Note", force=False)
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as handle:
        assert handle.metadata() == {"format": "pt", "author": "someone"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llava"
