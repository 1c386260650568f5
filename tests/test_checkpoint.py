"""Opening checkpoints: every layout that is served, every damage that is named."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from projclean.checkpoint import open_checkpoint, read_tensor
from projclean.errors import CheckpointError
from tests.conftest import llava_tensors


@pytest.mark.parametrize("shards", [1, 3])
def test_directory_in_one_file_or_shards(make_model, shards):
    tensors = llava_tensors()
    checkpoint = open_checkpoint(make_model("m", tensors, shards))
    assert set(checkpoint.tensors) == set(tensors)
    assert checkpoint.model_type == "llava"
    assert len(checkpoint.weight_files) == shards
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert torch.equal(read_tensor(checkpoint, name), tensor)


def test_bare_projector_file(tmp_path):
    save_file(llava_tensors(), tmp_path / "projector.safetensors")
    checkpoint = open_checkpoint(tmp_path / "projector.safetensors")
    assert checkpoint.is_bare
    assert checkpoint.model_type is None


def broken(make_model, tmp_path, how):
    folder = make_model("m", llava_tensors(), 2 if how.startswith("index") or how == "shard gone" else 1)
    weights, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if how == "nothing here":
        return tmp_path / "nowhere"
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "config is a list":
        (folder / "config.json").write_text("[1]")
    elif how == "config is no JSON":
        (folder / "config.json").write_bytes(b"\xff\xfe{")
    elif how == "no weights":
        weights.unlink()
    elif how == "pickles only":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "truncated header":
        weights.write_bytes(weights.read_bytes()[:20])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "header lies about its size":
        weights.write_bytes((2**62).to_bytes(8, "little") + weights.read_bytes()[8:])
    elif how == "weights are a directory":
        weights.unlink()
        weights.mkdir()
    elif how == "shard gone":
        (folder / "model-00002-of-00002.safetensors").unlink()
    elif how == "index leaves the directory":
        index.write_text(json.dumps({"weight_map": {"a.weight": "../../secret.safetensors"}}))
    elif how == "index without map":
        index.write_text(json.dumps({"metadata": {}}))
    elif how == "index lists what no shard holds":
        data = json.loads(index.read_text())
        data["weight_map"]["ghost.weight"] = "model-00001-of-00002.safetensors"
        index.write_text(json.dumps(data))
    elif how == "another kind of file":
        return folder / "config.json"
    return folder


@pytest.mark.parametrize(
    "how",
    [
        "nothing here", "no config", "config is a list", "config is no JSON", "no weights", "pickles only", "truncated",
        "truncated header", "empty", "header lies about its size", "weights are a directory", "shard gone",
        "index leaves the directory", "index without map", "index lists what no shard holds", "another kind of file",
    ],
)  # fmt: skip
def test_damage_is_named_in_one_line(make_model, tmp_path, how):
    path = broken(make_model, tmp_path, how)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "\n" not in message
