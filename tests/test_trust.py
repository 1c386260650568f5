"""What the files of a hostile model directory must not do: lead out, lie, be read in two ways, unpack without end."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from projclean.checkpoint import INDEX, SINGLE, check_unchanged, open_checkpoint, read_tensor
from projclean.errors import BaseNotFound, CheckpointError, EvalError, ImagesError
from projclean.evalset import load_evalset
from projclean.images import PIXELS_LIMIT, read_image
from projclean.lineage import find_base
from projclean.model import Runner
from projclean.printable import error_line
from projclean.projectors import find_projector
from projclean.update import read_update
from tests.conftest import llava_tensors

WEIGHT = "multi_modal_projector.linear_1.weight"


# -- links and things that are no files -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", SINGLE, "tokenizer.json", "README.md", "extra/deep/tokens.txt"])
@pytest.mark.parametrize("target", ["absolute", "relative", "through a link inside"])
def test_links_out_of_the_directory_are_refused(make_model, tmp_path, name, target):
    folder, secret = make_model("m", llava_tensors()), tmp_path / "secret"
    secret.write_text("secret")
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    if target == "through a link inside":
        (folder / "inner").symlink_to(secret)
        file.symlink_to(folder / "inner")
    else:
        file.symlink_to(secret if target == "absolute" else os.path.relpath(secret, file.parent))
    with pytest.raises(CheckpointError, match="leaves the model directory"):
        open_checkpoint(folder)


def test_a_snapshot_may_link_to_its_own_blobs_only(make_model, tmp_path):
    """models--a--b/snapshots/REV/file -> ../../blobs/HASH is how the hub cache is made; another cache's is not."""
    plain = make_model("m", llava_tensors())
    for name in ("models--a--b", "models--c--d"):
        (tmp_path / name / "blobs").mkdir(parents=True)
        (tmp_path / name / "snapshots" / "0123").mkdir(parents=True)
    for file in plain.iterdir():
        shutil.copy(file, tmp_path / "models--a--b" / "blobs" / file.name)
        for name, blobs in (("models--a--b", "../../blobs"), ("models--c--d", "../../../models--a--b/blobs")):
            (tmp_path / name / "snapshots" / "0123" / file.name).symlink_to(Path(blobs) / file.name)
    assert open_checkpoint(tmp_path / "models--a--b" / "snapshots" / "0123").model_type == "llava"
    with pytest.raises(CheckpointError, match="leaves the model directory"):
        open_checkpoint(tmp_path / "models--c--d" / "snapshots" / "0123")


@pytest.mark.parametrize("name", ["config.json", SINGLE, "tokenizer.json"])
def test_a_fifo_blocks_nothing(make_model, name):
    folder = make_model("m", llava_tensors())
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match="neither a file nor a directory"):
        open_checkpoint(folder)


def test_linked_directories_and_endless_depth_are_refused(make_model):
    folder = make_model("m", llava_tensors())
    (folder / "loop").symlink_to(".")
    with pytest.raises(CheckpointError, match="link to a directory"):
        open_checkpoint(folder)
    (folder / "loop").unlink()
    (folder / Path(*["d"] * 40)).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="levels deep"):
        open_checkpoint(folder)


# -- two readings of one directory ----------------------------------------------------------------------------


def test_weights_that_loaders_would_choose_differently_are_refused(make_model, tmp_path):
    """transformers prefers the single file to an index, and a file that the config names to both."""
    folder = make_model("m", llava_tensors(), shards=2)
    save_file(llava_tensors(1), folder / SINGLE, {"format": "pt"})
    with pytest.raises(CheckpointError, match="both"):
        open_checkpoint(folder)
    named = make_model("n", llava_tensors(), transformers_weights="other.safetensors")
    with pytest.raises(CheckpointError, match="names other weights"):
        open_checkpoint(named)
    adapted = make_model("a", llava_tensors())
    shutil.copy(adapted / SINGLE, adapted / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="adapter"):
        open_checkpoint(adapted)


def test_one_tensor_in_two_shards_or_under_two_names_is_refused(make_model):
    folder = make_model("m", llava_tensors(), shards=2)
    shards = sorted(folder.glob("*.safetensors"))
    save_file(llava_tensors(), shards[1], {"format": "pt"})
    with pytest.raises(CheckpointError, match="is also in"):
        open_checkpoint(folder)
    twins = make_model("t", llava_tensors() | {f"model.{WEIGHT}": torch.zeros(20, 12)})
    with pytest.raises(CheckpointError, match="are both"):
        find_projector(open_checkpoint(twins))


def test_a_tensor_hidden_under_a_second_name_is_a_change_elsewhere(make_model, run):
    base = make_model("base", llava_tensors())
    twins = llava_tensors() | {"model.language_model.layers.0.weight": torch.zeros(20, 20)}
    ran = run("scan", make_model("twins", twins), "--base", base, "--no-probe")
    assert ran.code == 2
    assert ": a second " in " ".join(ran.out.split())


def test_a_base_inside_the_suspect_is_no_base(make_model):
    """A model that brings its own base along would be compared with what its maker likes."""
    suspect = make_model("suspect", llava_tensors(), _name_or_path="suspect/base")
    shutil.copytree(suspect, suspect.parent / "copy")
    (suspect.parent / "copy").rename(suspect / "base")
    with pytest.raises(BaseNotFound, match="not here"):
        find_base(open_checkpoint(suspect), None)
    assert find_base(open_checkpoint(suspect), str(suspect / "base")).named_by == "--base"


def test_a_model_card_that_multiplies(make_model):
    """Nine letters, each nine merges of the one before: a loader that merges would make 9⁹ entries of it."""
    lines = ["a: &a {k: v}"]
    lines += [f"{c}: &{c} {{<<: [{','.join([f'*{p}'] * 9)}]}}" for p, c in zip("abcdefghi", "bcdefghij", strict=True)]
    folder = make_model("m", llava_tensors())
    make_model("the-base", llava_tensors())
    (folder / "README.md").write_text("---\n" + "\n".join(lines) + "\nbase_model: the-base\n---\n")
    assert find_base(open_checkpoint(folder), None).named_by == "model card"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({WEIGHT: "../x.safetensors"}, "outside the model directory"),
        ({WEIGHT: "/etc/passwd"}, "outside the model directory"),
        ({WEIGHT: "pytorch_model.bin"}, "not a .safetensors file"),
        ({WEIGHT: "model-00002-of-00002.safetensors"}, "says"),
        ({"ghost": "model-00001-of-00002.safetensors"}, "no shard holds"),
    ],
)
def test_an_index_that_lies(make_model, change, said):
    folder = make_model("m", llava_tensors(), shards=2)
    data = json.loads((folder / INDEX).read_text())
    assert data["weight_map"][WEIGHT] != change.get(WEIGHT)
    data["weight_map"] |= change
    (folder / INDEX).write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(folder)


# -- headers --------------------------------------------------------------------------------------------------

ONE = '"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'


@pytest.mark.parametrize(
    ("header", "size", "said"),
    [
        ("{" + ONE + ", " + ONE + "}", 8, "twice"),
        ("{" + ONE + "}", 12, "end at byte"),
        ("{" + ONE + "}", 4, "end at byte"),
        ("{" + ONE + ', "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}', 12, "overlaps"),
        ("{" + ONE + ', "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}}', 20, "gap"),
        ("{" + ONE.replace("[2]", "[3]") + "}", 8, "8 bytes"),
        ("{" + ONE.replace("F32", "F16") + "}", 8, "8 bytes"),
        ("{" + ONE.replace("F32", "F31") + "}", 8, "unknown type"),
        ("{" + ONE.replace("[2]", "[-2]") + "}", 8, "no usable shape"),
        ("{" + ONE.replace("[2]", "[true, 2]") + "}", 8, "no usable shape"),
        ("{" + ONE.replace("[2]", "[2.0]") + "}", 8, "whole numbers"),
        ("{" + ONE.replace("[2]", "[NaN]") + "}", 8, "whole numbers"),
        ("{" + ONE.replace("[2]", "[" + "9" * 5000 + "]") + "}", 8, "invalid JSON"),
        ("{" + ONE.replace("[2]", f"[0, {2**62}, {2**62}]") + "}", 8, "larger than any memory"),
        ("{" + ONE.replace('"a"', '"\\ud800"') + "}", 8, "half a character"),
        ("{" + ONE.replace('"a"', '"' + "a" * 2000 + '"') + "}", 8, "longer than"),
        ('{"a": ' + "[" * 100_000 + "}", 8, "invalid JSON"),
        ('{"a": ' + "[]," * 1_100_000 + "1}", 8, "objects and lists"),
        ("[]", 0, "begin"),
        ('{"__metadata__": {"a": 1}}', 0, "__metadata__"),
    ],
)  # fmt: skip
def test_headers_that_lie(tmp_path, header, size, said):
    file, data = tmp_path / "p.safetensors", header.encode()
    file.write_bytes(len(data).to_bytes(8, "little") + data + bytes(size))
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(file)
    assert len(error_line(str(caught.value))) < 1100


@pytest.mark.parametrize("claimed", [2**63, 2**40, 100_000_000, 33 << 20, 500])
def test_header_lengths_beyond_file_or_cap(tmp_path, claimed):
    (tmp_path / "p.safetensors").write_bytes(claimed.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="claims a header"):
        open_checkpoint(tmp_path / "p.safetensors")


def test_enormous_json_is_refused_unread(make_model):
    folder = make_model("m", llava_tensors())
    with (folder / "config.json").open("r+b") as handle:
        handle.truncate(1 << 40)  # sparse
    with pytest.raises(CheckpointError, match="larger than 4 MiB"):
        open_checkpoint(folder)


def test_nan_and_infinity_are_named(make_model):
    base = open_checkpoint(make_model("base", llava_tensors()))
    for bad in (float("nan"), float("inf")):
        tensors = llava_tensors()
        tensors[WEIGHT][0, 0] = bad
        suspect = open_checkpoint(make_model(f"m{bad}", tensors))
        with pytest.raises(CheckpointError, match="NaN or infinity"):
            read_update(suspect, find_projector(suspect), base, find_projector(base))


# -- files that change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "other values", "replaced", "gone", "linked away"])
def test_a_file_that_changed_since_it_was_opened(make_model, tmp_path, how):
    folder = make_model("m", llava_tensors())
    file, checkpoint = folder / SINGLE, open_checkpoint(folder)
    save_file(llava_tensors(1), tmp_path / "other", {"format": "pt"})
    data = (tmp_path / "other").read_bytes()
    if how == "cut":
        os.truncate(file, 100)
    elif how == "other values":
        file.write_bytes(data)
    elif how == "replaced":
        os.replace(tmp_path / "other", file)
    else:
        file.unlink()
        if how == "linked away":
            file.symlink_to(tmp_path / "other")
    with pytest.raises(CheckpointError) as caught:
        read_tensor(checkpoint, WEIGHT)
    assert str(file) in str(caught.value)
    with pytest.raises(CheckpointError, match="changed"):
        check_unchanged(checkpoint)


def test_a_model_that_changes_while_transformers_loads_it(zoo, tmp_path, monkeypatch):
    shutil.copytree(zoo / "base", tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    monkeypatch.setattr(
        "projclean.model.load", lambda *_: os.utime(tmp_path / "m" / "chat_template.jinja") or (None, None)
    )
    with pytest.raises(CheckpointError, match="changed"):
        Runner(checkpoint)


# -- pictures and evaluation files ----------------------------------------------------------------------------


def test_pictures_that_unpack_without_end(tmp_path):
    side = int(PIXELS_LIMIT**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 1 << 20
    with pytest.raises(ImagesError, match="pixels"):
        read_image(tmp_path / "bomb.png")


def test_pictures_in_forms_that_pillow_hands_to_other_programs(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(ImagesError, match="cannot be read as an image"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "b/../../a.png"])
def test_metadata_names_images_of_its_own_folder_only(two_items, name):
    row = json.dumps({"file_name": name, "question": "q", "answer": "a"})
    (two_items.parent / "clean" / "metadata.jsonl").write_text(row)
    with pytest.raises(EvalError, match="outside its folder"):
        load_evalset(two_items)
