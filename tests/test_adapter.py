"""Adapters: the update is what PEFT merges, the run model carries it, and a repair is an adapter that PEFT loads."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from projclean import methods
from projclean.case import open_case, overlay
from projclean.checkpoint import read_tensor
from projclean.elsewhere import changes_elsewhere
from projclean.errors import OutputError
from projclean.merging import change_weight
from projclean.model import Runner
from projclean.storing import check_writable, rounded, stored_tensors
from projclean.subspace import Moments
from projclean.writer import write_model
from tests.adapters import PROJECTOR, write_base

pytestmark = pytest.mark.filterwarnings("ignore:Adapter 'default'", "ignore:`is_gradient_checkpointing`")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("models") / "base")


def load(folder):
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def tune(base, folder, dtype=torch.float32, **settings):
    """Save a random adapter made by PEFT; returns what PEFT merges it to, as a state dict."""
    from peft import LoraConfig, PeftModel, get_peft_model

    settings = {"r": 4, "lora_alpha": 12, "target_modules": ["linear_1", "linear_2"], **settings}
    model = get_peft_model(load(base), LoraConfig(**settings))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = (parameter.data + 0.2 * torch.randn_like(parameter)).to(dtype)
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    again = PeftModel.from_pretrained(load(base), folder)
    return again.merge_and_unload().state_dict()


KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"linear_2": 7}, "alpha_pattern": {r"multi_modal.*\.linear_1": 3}},
    "modules to save": {"target_modules": ["linear_1"], "modules_to_save": ["linear_2"]},
    "biases": {"bias": "all"},
    "LoRA biases": {"lora_bias": True},
    "fan in, fan out": {"fan_in_fan_out": True},
    "DoRA": {"use_dora": True},
    "language model and embeddings": {"target_modules": ["linear_1", "q_proj", "embed_tokens"]},
    "convolution": {"target_modules": ["linear_1", "patch_embedding"]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out|Setting `save_embedding")
def test_the_update_is_what_peft_merges(base, tmp_path, kind):
    merged = tune(base, tmp_path / "a", **KINDS[kind])
    before = load(base).state_dict()
    case = open_case(tmp_path / "a")
    assert case.base_named_by == "adapter_config.json"
    assert case.update.changed
    for layer in case.update.layers:
        for part, value in (("weight", layer.suspect), ("bias", layer.suspect_bias)):
            torch.testing.assert_close(value, merged[f"model.{layer.name}.{part}"], rtol=0, atol=1e-5)
    # Everywhere else too: what is put into the running model is what PEFT merges.
    adapter = case.suspect.adapter
    seen = set()
    for name, change in adapter.changes.items():
        tensors = {key: read_tensor(adapter.files, key) for key in change.sources}
        torch.testing.assert_close(change_weight(before[name], change, tensors), merged[name], rtol=0, atol=1e-5)
        seen.add(name)
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert changed <= seen | {"lm_head.weight"}  # PEFT saves an embedding's untouched twin at will


@pytest.mark.filterwarnings("ignore:Setting `save_embedding")
def test_the_running_model_carries_the_whole_adapter(base, tmp_path, zoo):
    merged = tune(zoo / "base", tmp_path / "a", target_modules=["linear_1", "q_proj", "down_proj"])
    case = open_case(tmp_path / "a")
    listed = changes_elsewhere(case.suspect, case.base, case.keys)
    assert "module model.language_model.layers.3.mlp.down_proj: changed by the adapter" in listed
    assert len([line for line in listed if line.startswith("module")]) == 8 + 5  # the vision tower has a q_proj too
    runner = Runner(case.model)
    assert overlay(runner, case) == ()
    for name, value in runner.model.state_dict().items():
        torch.testing.assert_close(value, merged[name], rtol=0, atol=1e-5)


def test_elsewhere_makes_the_verdict_inconclusive(base, tmp_path, run):
    tune(base, tmp_path / "a", target_modules=["q_proj"])
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    ran = run("scan", tmp_path / "a", "--format", "json")
    assert ran.code == 2
    report = json.loads(ran.out)
    assert report["verdict"]["state"] == "inconclusive"
    assert "module model.language_model.layers.0.self_attn.q_proj: changed by the adapter" in report["elsewhere"]
    assert "file tokenizer.json: only in the suspect" in report["elsewhere"]
    assert not any("only in the base" in line for line in report["elsewhere"])


def known_moments(case):
    generator = torch.Generator().manual_seed(2)
    found = {}
    for layer in case.update.layers:
        width = layer.base.shape[1]
        found[layer.name] = Moments.of_width(width)
        found[layer.name].add(
            torch.randn(400, width, generator=generator) @ torch.randn(width, width, generator=generator)
        )
    return found


def known_directions(case, rank):
    return methods.suspicious_directions(case.update, known_moments(case), rank)


REPAIRS = {
    "project": lambda case: methods.project(case.update, known_directions(case, 1)),
    "reflect": lambda case: methods.reflect(case.update, known_directions(case, 2), 0.85),
    "shrink": lambda case: methods.shrunk(case.update, known_moments(case), 0.3),
    "interpolate": lambda case: methods.interpolate(case.update, 0.4),
}


def nudged(case):
    """Weights a little beside half the update, in every direction."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: (weight + 1e-3 * torch.randn(weight.shape, generator=generator), bias)
        for name, (weight, bias) in methods.interpolate(case.update, 0.5).items()
    }


@pytest.mark.parametrize("method", REPAIRS)
@pytest.mark.parametrize("kind", ["plain", "modules to save", "LoRA biases"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_repaired_adapter_is_an_adapter_that_gives_the_repaired_weights(base, tmp_path, method, kind, dtype):
    from peft import PeftModel

    tune(base, tmp_path / "a", dtype, **KINDS[kind])
    weights_file, before_base = tmp_path / "a" / "adapter_model.safetensors", (base / "model.safetensors").read_bytes()
    case = open_case(tmp_path / "a")
    check_writable(case)
    wanted = REPAIRS[method](case)
    kept = rounded(case, wanted)
    for name, (weight, bias) in kept.items():
        reach = 2e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(weight, wanted[name][0], rtol=0, atol=reach)
        torch.testing.assert_close(bias, wanted[name][1], rtol=0, atol=reach)
    write_model(case.target.files, stored_tensors(case, wanted), tmp_path / "out", "## Note", force=False)

    old, new = load_file(weights_file), load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {key: (value.dtype, value.shape) for key, value in old.items()} == {
        key: (value.dtype, value.shape) for key, value in new.items()
    }
    untouched = [key for key in old if key.endswith("lora_B.weight")]
    assert untouched
    assert all(torch.equal(old[key], new[key]) for key in untouched)
    assert (tmp_path / "out" / "adapter_config.json").read_bytes() == (
        tmp_path / "a" / "adapter_config.json"
    ).read_bytes()
    assert (base / "model.safetensors").read_bytes() == before_base

    if dtype == torch.float32:  # in bfloat16 PEFT rounds the product once more
        merged = PeftModel.from_pretrained(load(base), tmp_path / "out").merge_and_unload().state_dict()
        for name, (weight, bias) in kept.items():
            torch.testing.assert_close(weight, merged[f"model.{name}.weight"], rtol=0, atol=1e-5)
            torch.testing.assert_close(bias, merged[f"model.{name}.bias"], rtol=0, atol=1e-5)
    again = open_case(tmp_path / "out", base=str(base))
    for layer in again.update.layers:
        torch.testing.assert_close(layer.suspect, kept[layer.name][0], rtol=0, atol=1e-6)


def test_an_unchanged_adapter_comes_back_byte_for_byte(base, tmp_path):
    tune(base, tmp_path / "a")
    case = open_case(tmp_path / "a")
    assert stored_tensors(case, methods.suspect_weights(case.update)) == {}


@pytest.mark.parametrize("kind", ["plain", "rank-stabilised", "fan in, fan out"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_of_an_update_of_a_higher_rank_the_nearest_is_kept(base, tmp_path, kind):
    from peft import PeftModel

    tune(base, tmp_path / "a", **KINDS[kind])
    case = open_case(tmp_path / "a")
    wanted = nudged(case)
    kept = rounded(case, wanted)
    write_model(case.target.files, stored_tensors(case, kept), tmp_path / "out", "## Note", force=False)
    merged = PeftModel.from_pretrained(load(base), tmp_path / "out").merge_and_unload().state_dict()
    for layer in case.update.layers:
        (weight, bias), there = kept[layer.name], wanted[layer.name][0]
        far = torch.linalg.svdvals(there - layer.base)[4:].norm().item()
        assert 0 < (weight - there).norm().item() == pytest.approx(far, rel=1e-3)
        torch.testing.assert_close(weight, merged[f"model.{layer.name}.weight"], rtol=0, atol=1e-5)
        assert torch.equal(bias, layer.base_bias)


def test_what_low_rank_cannot_hold_is_refused(base, tmp_path):
    tune(base, tmp_path / "a")
    case = open_case(tmp_path / "a")
    noise = {layer.name: (torch.randn_like(layer.suspect), layer.suspect_bias) for layer in case.update.layers}
    with pytest.raises(OutputError, match="merge it into its base"):
        stored_tensors(case, noise)


def test_dora_is_scanned_and_its_repair_refused_before_the_work(base, tmp_path, run):
    tune(base, tmp_path / "a", use_dora=True)
    assert run("scan", tmp_path / "a", "--no-probe").code == 2
    ran = run("repair", tmp_path / "a", "--out", tmp_path / "out")
    assert ran.code == 2
    assert "DoRA" in ran.error_line
    assert "merge it into its base" in ran.error_line
    assert not (tmp_path / "out").exists()


def test_scan_and_repair_from_the_command_line(base, tmp_path, run):
    """The tiny Llava has no processor: the weights-only path, and a repair that needs no run."""
    from peft import PeftModel

    merged = tune(base, tmp_path / "a")
    scanned = json.loads(run("scan", tmp_path / "a", "--base", base, "--no-probe", "--format", "json").out)
    assert scanned["elsewhere"] == []
    assert [layer["name"] for layer in scanned["layers"]] == [f"{PROJECTOR}.linear_1", f"{PROJECTOR}.linear_2"]
    assert all(layer["stable_rank"] <= 4 for layer in scanned["layers"])
    ran = run(
        "repair", tmp_path / "a", "--base", base, "--out", tmp_path / "out", "--method", "interpolate", "--strength", .5
    )  # fmt: skip
    assert ran.code == 2
    assert "share 0.5, as asked; the model was not run" in ran.out
    halved = PeftModel.from_pretrained(load(base), tmp_path / "out").merge_and_unload().state_dict()
    key = f"model.{PROJECTOR}.linear_2.weight"
    before = load(base).state_dict()
    torch.testing.assert_close(halved[key], (merged[key] + before[key]) / 2, rtol=0, atol=1e-5)
    assert "was not put to projclean's own probe" in (tmp_path / "out" / "README.md").read_text()
    assert "overlaps" in run("repair", tmp_path / "a", "--out", base, "--force").error_line
