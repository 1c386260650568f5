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
