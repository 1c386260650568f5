"""Bare pickled projectors: only on request, only through torch's restricted loader, in LLaVA's own names."""

from __future__ import annotations

import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from projclean.checkpoint import open_checkpoint, read_tensor
from tests.conftest import llava_tensors

PREFIXES = {
    "mm_projector.bin": "model.mm_projector",
    "non_lora_trainables.bin": "base_model.model.model.mm_projector",
    "projector.safetensors": "model.mm_projector",
}
OLD = {"linear_1": "0", "linear_2": "2"}


def bare(tmp_path, name, seed=7, dtype=torch.bfloat16):
    """The projector of llava_tensors(seed) as LLaVA's own code saves it."""
    tensors = {
        key.replace("multi_modal_projector", PREFIXES[name]).replace(part, number): value.to(dtype)
        for key, value in llava_tensors(seed).items()
        for part, number in OLD.items()
        if part in key
    }
    assert len(tensors) == 4
    save = save_file if name.endswith(".safetensors") else torch.save
    save(tensors, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("name", PREFIXES)
def test_original_names_pair_with_transformers(make_model, tmp_path, run, name):
    file, base = bare(tmp_path, name), make_model("base", llava_tensors())
    ran = run("scan", file, "--base", base, "--no-probe", "--allow-pickle", "--format", "json")
    report = json.loads(ran.out)
    assert [layer["name"] for layer in report["layers"]] == [f"multi_modal_projector.{part}" for part in OLD]
    assert report["layers"][0]["relative_change"] > 0.5
    ran = run(
        "repair", file, "--base", base, "--allow-pickle", "--out", tmp_path / "out", "--method", "interpolate",
        "--strength", 1,
    )  # fmt: skip
    assert "written to" in ran.out
    out = open_checkpoint(tmp_path / "out")
    for key, value in llava_tensors(7).items():
        if "projector" in key:
            torch.testing.assert_close(read_tensor(out, key), value.bfloat16().float(), rtol=0, atol=1e-6)


def test_pickles_need_the_option(make_model, tmp_path, run):
    file, base = bare(tmp_path, "mm_projector.bin"), make_model("base", llava_tensors())
    for command in (("scan", file), ("repair", file, "--out", tmp_path / "out")):
        line = run(*command, "--base", base).error_line
        assert "--allow-pickle" in line
        assert str(file) in line


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.parametrize("how", ["torch", "legacy", "raw"])
def test_code_in_a_pickle_is_not_run(make_model, tmp_path, run, how):
    file, mark = tmp_path / "mm_projector.bin", tmp_path / "run"
    if how == "raw":
        file.write_bytes(pickle.dumps({"x": Bomb(str(mark))}))
    else:
        torch.save({"x": Bomb(str(mark))}, file, _use_new_zipfile_serialization=how == "torch")
    line = run("scan", file, "--base", make_model("base", llava_tensors()), "--allow-pickle").error_line
    assert "do not trust" in line
    assert str(file) in line
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        [1, 2], {}, {"x": 1}, {1: torch.ones(2)}, {"x": torch.ones(2, dtype=torch.int64)},
        {"x": torch.ones(2, 2).to_sparse()}, {"x": torch.ones(1).expand(1 << 20, 1 << 20)},
        {"x": torch.ones(2, 2, device="meta")},
    ],
    ids=["list", "empty", "number", "number as name", "integers", "sparse", "huge", "meta"],
)  # fmt: skip
def test_anything_but_plain_tensors_is_refused(make_model, tmp_path, run, content):
    torch.save(content, tmp_path / "mm_projector.bin")
    base = make_model("base", llava_tensors())
    assert "mm_projector.bin" in run(
        "scan", tmp_path / "mm_projector.bin", "--base", base, "--allow-pickle"
    ).error_line  # fmt: skip


def test_a_compressed_pickle_is_not_unpacked(make_model, tmp_path, run):
    torch.save({"model.mm_projector.0.weight": torch.zeros(1000, 1000)}, tmp_path / "big.bin")
    with zipfile.ZipFile(tmp_path / "big.bin") as big, zipfile.ZipFile(tmp_path / "small.bin", "w") as small:
        for entry in big.infolist():
            small.writestr(entry.filename, big.read(entry), zipfile.ZIP_DEFLATED)
    base = make_model("base", llava_tensors())
    assert "unpacks to" in run("scan", tmp_path / "small.bin", "--base", base, "--allow-pickle").error_line


def test_damage_is_one_line(make_model, tmp_path, run):
    file, base = bare(tmp_path, "mm_projector.bin"), make_model("base", llava_tensors())
    whole = file.read_bytes()
    for part in (b"", whole[:50], whole[:-300], b"\x80\x02garbage"):
        file.write_bytes(part)
        assert str(file) in run("scan", file, "--base", base, "--allow-pickle").error_line


def test_llava_lora_directory(make_model, tmp_path, run):
    """LLaVA's own LoRA training keeps the projector in a pickle beside the adapter."""
    from tests.adapters import by_hand, lora

    base = make_model("base", llava_tensors())
    folder = by_hand(tmp_path, lora("model.layers.0", 20, 20))
    bare(folder, "non_lora_trainables.bin")
    assert "--allow-pickle" in run("scan", folder, "--base", base).error_line
    ran = run("scan", folder, "--base", base, "--no-probe", "--allow-pickle", "--format", "json")
    report = json.loads(ran.out)
    assert report["layers"][0]["relative_change"] > 0.5
    assert report["elsewhere"] == ["module model.layers.0: changed by the adapter"]
    line = run("repair", folder, "--base", base, "--allow-pickle", "--out", tmp_path / "out").error_line
    assert "pickle" in line
    for file in ("adapter_model.safetensors", "non_lora_trainables.bin"):
        (folder / file).unlink()
    torch.save(lora("multi_modal_projector.linear_1", 20, 12), folder / "adapter_model.bin")
    assert run("scan", folder, "--base", base, "--no-probe", "--allow-pickle").out
