"""Pairing suspect with base: names, layouts, shapes, damaged values, and what changed elsewhere."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from projclean.case import open_case
from projclean.checkpoint import open_checkpoint
from projclean.elsewhere import changes_elsewhere
from projclean.errors import CheckpointError, MismatchError
from projclean.projectors import find_projector
from tests.conftest import llava_tensors

FIRST, SECOND = "multi_modal_projector.linear_1", "multi_modal_projector.linear_2"


def moved(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = llava_tensors()
    for name, change in changes.items():
        key = f"multi_modal_projector.{name.replace('__', '.')}"
        tensors[key] = tensors[key] + change
    return tensors


def test_update_is_exact_across_layouts_and_shards(make_model):
    change = torch.outer(torch.arange(20.0), torch.arange(12.0))
    suspect = {f"model.{key}": value for key, value in moved(linear_1__weight=change).items()}
    case = open_case(make_model("s", suspect, 3), str(make_model("b", llava_tensors())))
    assert [layer.name for layer in case.update.layers] == [FIRST, SECOND]
    assert torch.allclose(case.update.layers[0].delta, change, atol=1e-4)
    assert case.update.layers[0].changed
    assert not case.update.layers[1].changed


def test_bare_projector_over_a_base(make_model, tmp_path):
    projector = {key: value for key, value in moved(linear_2__bias=torch.ones(20)).items() if "projector" in key}
    save_file(projector, tmp_path / "p.safetensors")
    case = open_case(tmp_path / "p.safetensors", str(make_model("b", llava_tensors())))
    assert [layer.changed for layer in case.update.layers] == [False, True]
    assert case.model is case.base


def test_transposed_storage_is_turned(make_model):
    key = "multi_modal_projector.mm_input_projection_weight"
    stored = torch.arange(24.0).reshape(4, 6)
    suspect = make_model("s", {key: stored + 1}, model_type="gemma3")
    case = open_case(suspect, str(make_model("b", {key: stored}, model_type="gemma3")))
    assert torch.equal(case.update.layers[0].suspect, (stored + 1).T)


def test_changed_norms_are_reported_not_lost(make_model):
    norm = "multi_modal_projector.norm.weight"
    suspect = make_model("s", llava_tensors() | {norm: torch.ones(12)})
    base = make_model("b", llava_tensors() | {norm: torch.zeros(12)})
    assert open_case(suspect, str(base)).update.other_changes == (norm,)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_and_infinity_are_named(make_model, poison):
    tensors = llava_tensors()
    tensors[f"{SECOND}.weight"][3, 4] = poison
    suspect = make_model("s", tensors)
    with pytest.raises(CheckpointError, match=r"s/model\.safetensors: .*linear_2\.weight holds NaN or infinity"):
        open_case(suspect, str(make_model("b", llava_tensors())))


def test_base_of_another_shape(make_model):
    with pytest.raises(MismatchError, match=r"linear_1 is 20×14 here but 20×12"):
        open_case(make_model("s", llava_tensors()), str(make_model("b", llava_tensors(vision=14))))


def test_base_with_other_layers(make_model):
    fewer = {key: value for key, value in llava_tensors().items() if "linear_2" not in key}
    with pytest.raises(MismatchError, match=r"no projector layer multi_modal_projector\.linear_2"):
        open_case(make_model("s", llava_tensors()), str(make_model("b", fewer)))


def test_integer_weights_are_refused(make_model):
    tensors = llava_tensors() | {f"{FIRST}.weight": torch.zeros(20, 12, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match="dequantise"):
        open_case(make_model("s", tensors), str(make_model("b", llava_tensors())))


def test_changes_elsewhere_are_all_found(make_model):
    tensors = llava_tensors()
    tensors["language_model.layers.0.weight"][0, 0] += 1
    tensors["language_model.extra.weight"] = torch.zeros(2)
    tensors["vision_tower.patch.weight"] = tensors["vision_tower.patch.weight"].half()
    suspect, base = make_model("s", tensors), make_model("b", llava_tensors())
    (suspect / "tokenizer.json").write_text("{}")
    (suspect / "modeling_evil.py").write_text("import os")
    (base / "modeling_evil.py").write_text("")
    opened, other = open_checkpoint(suspect), open_checkpoint(base)
    keys = find_projector(opened).keys
    found = changes_elsewhere(opened, other, keys)
    assert sorted(line.split(":")[0] for line in found) == [
        "file modeling_evil.py",
        "file tokenizer.json",
        "tensor language_model.extra.weight",
        "tensor language_model.layers.0.weight",
        "tensor vision_tower.patch.weight",
    ]
    assert not any("layers.0" in line for line in changes_elsewhere(opened, other, keys, contents=False))
    assert changes_elsewhere(other, other, keys) == []


def test_a_tensor_stored_under_two_names_is_told(make_model):
    twice = llava_tensors() | {"model.vision_tower.patch.weight": torch.zeros(12, 3, 2, 2)}
    suspect, base = open_checkpoint(make_model("s", twice)), open_checkpoint(make_model("b", llava_tensors()))
    found = changes_elsewhere(suspect, base, find_projector(suspect).keys)
    assert any("a second vision_tower.patch.weight" in line for line in found)


def test_renamed_projectors_pair_and_are_not_changes_elsewhere(make_model):
    names = {"multi_modal_projector.linear_1": "mlp1.1", "multi_modal_projector.linear_2": "mlp1.3"}
    older = {}
    for key, value in moved(linear_1__weight=torch.ones(20, 12)).items():
        module, _, leaf = key.rpartition(".")
        older[f"{names.get(module, module)}.{leaf}"] = value
    case = open_case(make_model("s", older), str(make_model("b", llava_tensors())))
    assert [layer.name for layer in case.update.layers] == [FIRST, SECOND]
    assert [layer.changed for layer in case.update.layers] == [True, False]
    assert changes_elsewhere(case.suspect, case.base, case.keys) == []


LOADED = [
    "additional_chat_templates/default.jinja", "sub/m.py", "m.pyc", "native.so", "extra.safetensors",
    "model.fp16.safetensors", "sub/model.safetensors", "consolidated.safetensors", "consolidated.00.pth",
    "pytorch_model.bin", "mm_projector.bin", "pytorch_model.bin.index.json", "model.gguf", "model.onnx", "tf_model.h5",
    "flax_model.msgpack", "weights.npz", "spiece.model", "sentencepiece.bpe.model", "spm.model", "source.spm",
    "qwen.tiktoken", "bpe.codes", "dict.txt", "prophetnet.tokenizer", "entity_vocab.json", "tekken.json",
    "params.json", "adapter_config.json", "Tokenizer.json", ".hidden/config.json",
]  # fmt: skip
#: Notes, what training leaves, and folders in which no loader looks and which a repair does not copy.
NOT_LOADED = [
    "README.md", "LICENSE", "EVAL.toml", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state_0.pth",
    "training_args.bin", ".git/config.json", ".git/m.py", ".cache/huggingface/m.safetensors", "__pycache__/m.pyc",
]  # fmt: skip


def put(folder, name, text="x"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def files_elsewhere(suspect, base):
    case = open_case(suspect, str(base))
    return changes_elsewhere(case.suspect, case.base, case.keys)


def test_every_file_that_some_loader_reads_is_compared(make_model):
    suspect, base = make_model("s", moved()), make_model("b", llava_tensors())
    for name in LOADED + NOT_LOADED:
        put(suspect, name)
    assert files_elsewhere(suspect, base) == [f"file {name}: only in the suspect" for name in sorted(LOADED)]
    for name in LOADED:
        put(base, name)
    assert files_elsewhere(suspect, base) == []
    for name in LOADED:
        put(base, name, "y")
    assert files_elsewhere(suspect, base) == [f"file {name}: other contents" for name in sorted(LOADED)]


def test_what_the_base_alone_has_counts_where_a_loader_looks_for_it(make_model):
    suspect, base = make_model("s", moved()), make_model("b", llava_tensors(), shards=2)
    names = ["pytorch_model.bin", "original/params.json", "original/tokenizer.model", "onnx/model.onnx", "optimizer.pt"]
    for name in [*names, "spiece.model", "additional_chat_templates/tools.jinja"]:
        put(base, name)
    assert files_elsewhere(suspect, base) == [
        "file additional_chat_templates/tools.jinja: only in the base", "file spiece.model: only in the base",
    ]  # fmt: skip


def test_shards_of_another_number_are_no_second_weights(make_model):
    sharded, base = make_model("s", moved(), shards=3), make_model("b", llava_tensors())
    assert files_elsewhere(sharded, base) == []
    put(sharded, "model-00004-of-00004.safetensors")
    assert files_elsewhere(sharded, base) == ["file model-00004-of-00004.safetensors: only in the suspect"]


def test_a_watched_file_that_changes_meanwhile_is_an_error(make_model):
    suspect, base = make_model("s", moved()), make_model("b", llava_tensors())
    for folder in (suspect, base):
        put(folder, "spiece.model")
    case = open_case(suspect, str(base))
    put(suspect, "spiece.model", "y")
    with pytest.raises(CheckpointError, match="changed while"):
        changes_elsewhere(case.suspect, case.base, case.keys)
