"""The norm clip: on live models of several kinds, in a model directory, and through every command."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save
from torch import nn

import projclean
from eval.architectures import build
from eval.zoo import SHIPPED
from projclean.case import open_case
from projclean.checkpoint import open_checkpoint
from projclean.elsewhere import changes_elsewhere
from projclean.errors import CheckpointError, ModelError, OutputError
from projclean.evalset import load_evalset
from projclean.guard import LIMITS, SETTINGS, Guard, attach, clip, detach, read_guard, sidecar
from projclean.methods import interpolate
from projclean.model import Prepared, Runner
from projclean.projectors import LayerSpec
from projclean.writer import write_model
from tests.conftest import llava_tensors
from tests.test_hooks import IMAGES, RUN

LAYER = "multi_modal_projector.linear_1"
GUARD = Guard({LAYER: 2.5, "multi_modal_projector.linear_2": 0.125}, 97.5, {"projclean": "0.1.0", "seed": 3})

pytestmark = pytest.mark.usefixtures("in_miniature")


# -- on a live model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["llava", "gemma3", "qwen3_vl", "idefics2", "blip-2"])
def test_a_guard_holds_on_every_kind_of_projector_until_it_is_detached(model_type):
    model = build(model_type)
    runner = Runner.around(model)
    batch = Prepared(RUN[model_type](model), IMAGES)
    moments = runner.moments([batch])
    first = runner.layers[0]
    plain, norms = runner.next_token_logits(batch), runner.input_norms([batch])
    limit = norms.quantile(0.2).item()
    attach(model, Guard({first: limit}, 20.0))
    clipped = runner.input_norms([batch])
    assert torch.allclose(clipped, norms.clamp_max(limit), rtol=1e-4)
    assert not torch.equal(runner.next_token_logits(batch), plain)
    runner.set_guard(Guard({first: 1.001 * norms.max().item()}, 100.0))  # takes the other's place
    assert torch.equal(runner.next_token_logits(batch), plain)
    runner.set_guard(Guard({first: limit}, 20.0))
    far = 100 * moments[first].second.diagonal().sqrt()
    with runner.hooked(first, lambda x: x + far.to(x), first=True):  # as a trigger would: before the guard
        assert runner.input_norms([batch]).max() <= 1.001 * limit
    detach(model)
    detach(model)
    assert torch.equal(runner.next_token_logits(batch), plain)
    assert torch.equal(runner.input_norms([batch]), norms)
    with pytest.raises(ModelError, match="guards no_such_layer"):
        attach(model, Guard({"no_such_layer": 1.0}, 50.0))


def test_patches_of_a_convolution_are_clipped_each():
    convolution = nn.Conv2d(3, 4, 2, stride=2)
    model = nn.ModuleDict({"layer": convolution})
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    spec = LayerSpec("layer", "layer.weight", "layer.bias", (4, 12))
    patches = nn.functional.unfold(x, 2, stride=2).transpose(1, 2)
    attach(model, Guard({"layer": 3.0}, 50.0), {"layer": spec})
    assert patches.norm(dim=-1).max() > 3 > patches.norm(dim=-1).min()
    wanted = clip(patches, 3.0) @ convolution.weight.flatten(1).T + convolution.bias
    assert torch.allclose(convolution(x).flatten(2).transpose(1, 2), wanted, atol=1e-5)


# -- the sidecar ----------------------------------------------------------------------------------------------


def put(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_a_sidecar_is_read_as_it_was_written(tmp_path):
    assert read_guard(tmp_path) is None
    put(tmp_path, sidecar(GUARD))
    assert read_guard(tmp_path) == GUARD
    assert sidecar(GUARD) == sidecar(GUARD)


def limits(**values):
    return {LIMITS: save({name: torch.tensor(value) for name, value in values.items()})}


def settings(**changes):
    return {SETTINGS: json.dumps({**json.loads(sidecar(GUARD)[SETTINGS]), "layers": ["a"], **changes}).encode()}


BAD = {
    "half a guard": ({SETTINGS: settings()[SETTINGS]}, LIMITS, "missing"),
    "the other half": (limits(a=[1.0]), SETTINGS, "missing"),
    "no JSON": ({SETTINGS: b"{", **limits(a=[1.0])}, SETTINGS, "cannot be read"),
    "a list": ({SETTINGS: b"[]", **limits(a=[1.0])}, SETTINGS, "no JSON object"),
    "endless": ({SETTINGS: b" " * 70_000, **limits(a=[1.0])}, SETTINGS, "larger than"),
    "another format": (settings(format="x"), SETTINGS, "is no guard"),
    "a true version": (settings(version=True), SETTINGS, "is no guard"),
    "a later version": (settings(version=2), SETTINGS, "version 2"),
    "another method": (settings(method="run"), SETTINGS, "another method"),
    "a field too many": (settings(code="x"), SETTINGS, "other fields"),
    "percentile 0": (settings(percentile=0), SETTINGS, "percentile"),
    "percentile NaN": (settings(percentile=float("nan")), SETTINGS, "percentile"),
    "percentile text": (settings(percentile="50"), SETTINGS, "percentile"),
    "no layers": (settings(layers=[]), SETTINGS, "1 to 256 layers"),
    "a layer twice": (settings(layers=["a", "a"]), SETTINGS, "each once"),
    "numbered layers": (settings(layers=[1]), SETTINGS, "list of names"),
    "nested provenance": (settings(provenance={"a": []}), SETTINGS, "provenance"),
    "other layers": ({**settings(), **limits(b=[1.0])}, LIMITS, "other layers"),
    "more layers": ({**settings(), **limits(a=[1.0], b=[1.0])}, LIMITS, "other layers"),
    "two limits": ({**settings(), **limits(a=[1.0, 2.0])}, LIMITS, "one F32 number"),
    "a whole number": ({**settings(), **limits(a=[1])}, LIMITS, "one F32 number"),
    "limit 0": ({**settings(), **limits(a=[0.0])}, LIMITS, "above 0"),
    "limit NaN": ({**settings(), **limits(a=[float("nan")])}, LIMITS, "above 0"),
    "limit infinite": ({**settings(), **limits(a=[float("inf")])}, LIMITS, "above 0"),
    "cut short": ({**settings(), LIMITS: limits(a=[1.0])[LIMITS][:-1]}, LIMITS, "not a sound safetensors file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_sidecar_is_one_clear_line(tmp_path, name):
    files, culprit, said = BAD[name]
    put(tmp_path, files)
    with pytest.raises(CheckpointError) as caught:
        read_guard(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / culprit}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sidecar_that_leads_out_of_the_directory_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(settings()[SETTINGS])
    folder = tmp_path / "model"
    folder.mkdir()
    put(folder, limits(a=[1.0]))
    (folder / SETTINGS).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="leaves the model directory"):
        read_guard(folder)


def test_files_beside_the_weights_are_there_with_them_or_not_at_all(make_model, tmp_path):
    source = open_checkpoint(make_model("m", llava_tensors()))
    write_model(source, {}, tmp_path / "out", "## Note", False, sidecar(GUARD))
    assert read_guard(tmp_path / "out") == GUARD
    other = Guard({LAYER: 1.0}, 50.0)
    write_model(open_checkpoint(tmp_path / "out"), {}, tmp_path / "again", "## Note", False, sidecar(other))
    assert read_guard(tmp_path / "again") == other
    (source.path / LIMITS).mkdir()  # where the file would go
    (source.path / LIMITS / "x").write_text("x")
    with pytest.raises(OutputError, match="nothing was left behind"):
        write_model(open_checkpoint(source.path), {}, tmp_path / "bad", "## Note", False, sidecar(GUARD))
    assert {path.name for path in tmp_path.iterdir()} == {"m", "out", "again"}


# -- through the commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clipped(zoo, in_miniature, low_thresholds, tmp_path_factory):
    """A shipped suspect behind a guard that cuts four tokens in five, and what repair says of it."""
    out = tmp_path_factory.mktemp("clipped") / "out"
    result = projclean.repair(zoo / "badnet-refusal", out, str(zoo / "base"), method="clip", strength=20.0,
                              thresholds=low_thresholds)  # fmt: skip
    return out, result


def test_clip_keeps_every_byte_and_adds_a_guard(clipped, zoo):
    out, result = clipped
    source = zoo / "badnet-refusal"
    added = {path.name for path in out.iterdir()} - {path.name for path in source.iterdir()}
    assert added - {"README.md"} == {SETTINGS, LIMITS}
    for path in source.iterdir():
        if path.name != "README.md":
            assert (out / path.name).read_bytes() == path.read_bytes()
    assert read_guard(out) == result.guard
    assert list(result.guard.limits) == [LAYER]
    assert (result.chosen, result.trials[0].removed) == ("clip p20", 0.0)
    card = (out / "README.md").read_text()
    assert "projclean.load" in card
    assert "must be attached" in card
    assert any("transformers alone" in caveat for caveat in result.verdict.caveats)


def test_a_clip_that_fails_its_own_probe_is_not_called_a_repair(clipped, zoo, run, low_thresholds, tmp_path):
    out, result = clipped
    assert result.verdict.state == "suspicious"
    assert "STILL FAILS" in (out / "README.md").read_text()
    # The same again, of what was written.
    ran = run("scan", out, "--base", zoo / "base", "--format", "json", "--thresholds", low_thresholds)
    report = json.loads(ran.out)
    assert ran.code == 1
    assert report["probe"]["foreign"] == pytest.approx(result.after.foreign, abs=1e-6)
    assert report["guard"]["limits"] == {LAYER: pytest.approx(result.guard.limits[LAYER], abs=1e-6)}
    (tmp_path / "scan.json").write_text(ran.out)
    assert "run behind its guard" in run("explain", tmp_path / "scan.json").out.replace("\n", " ")
    again = run(
        "repair",
        out,
        "--base",
        zoo / "base",
        "--out",
        tmp_path / "again",
        "--method",
        "clip",
        "--strength",
        90,
        "--thresholds",
        low_thresholds,
    )
    assert again.code == 1
    assert "guard: norm clip at the percentile 90" in again.out
    assert read_guard(tmp_path / "again").limits[LAYER] <= result.guard.limits[LAYER]  # measured behind the first one


def test_load_and_eval_attach_the_guard(clipped, zoo, few_items, run):
    out, result = clipped
    model, processor = projclean.load(out)
    runner = Runner.around(model, processor)
    batch = runner.prepare([item.image() for item in load_evalset(few_items).clean], "Describe the image.")
    limit = result.guard.limits[LAYER]
    assert runner.input_norms([batch]).max() <= 1.001 * limit
    behind = runner.next_token_logits(batch)
    detach(model)
    assert runner.input_norms([batch]).max() > 1.2 * limit
    assert not torch.allclose(runner.next_token_logits(batch), behind, atol=1e-2)
    ran = run("eval", zoo / "badnet-refusal", out, "--eval", few_items)
    assert ran.code == 0
    assert ran.out.count("(guarded)") == 1


def test_a_guard_is_a_change_elsewhere_so_that_nobody_is_silenced_by_one(clipped, zoo):
    """Else a hostile guard could hush the probe, in a model that most loaders run without it."""
    suspect, base = open_checkpoint(clipped[0]), open_checkpoint(zoo / "base")
    found = changes_elsewhere(suspect, base, set(suspect.tensors), contents=False)
    assert {f"file {SETTINGS}: only in the suspect", f"file {LIMITS}: only in the suspect"} <= set(found)


def test_a_hostile_guard_stops_every_command_with_one_line(clipped, zoo, few_items, run, tmp_path):
    folder = tmp_path / "m"
    write_model(open_checkpoint(clipped[0]), {}, folder, "", False, sidecar(Guard({"elsewhere": 1.0}, 50.0)))
    for command in (
        ["scan", folder, "--base", zoo / "base"],
        ["eval", folder, "--eval", few_items],
        ["repair", folder, "--base", zoo / "base", "--out", tmp_path / "out", "--method", "clip"],
    ):
        ran = run(*command)
        assert ran.code == 2
        assert f"{folder}/{SETTINGS}: guards elsewhere" in ran.error_line
    assert not (tmp_path / "out").exists()


def test_a_guard_stands_beside_another_method_and_around_a_bare_projector(zoo, tmp_path):
    """A bare projector has no place for a guard: the base's directory with the repaired projector is written."""
    suspect = SHIPPED / "badnet-refusal.safetensors"
    result = projclean.repair(
        suspect, tmp_path / "out", str(zoo / "base"), method="interpolate", strength=0.5, clip=50.0
    )  # fmt: skip
    assert result.chosen == "share 0.5, clip p50"
    assert read_guard(tmp_path / "out") == result.guard
    case, wanted = open_case(tmp_path / "out", str(zoo / "base")), open_case(suspect, str(zoo / "base"))
    for name, (weight, _) in interpolate(wanted.update, 0.5).items():
        written = next(layer.suspect for layer in case.update.layers if layer.name == name)
        assert torch.allclose(written, weight, atol=1e-2)


def test_what_clip_cannot_do_is_said_before_the_work(zoo, run, make_model, tmp_path):
    base = ["--base", zoo / "base", "--out", tmp_path / "out"]
    for options, said in (
        (["--method", "clip", "--strength", 0], "--strength 0: the percentile"),
        (["--clip", 101], "--clip 101: the percentile"),
        (["--method", "clip", "--clip", 50], "--clip stands beside another method"),
        (["--method", "clip", "--rank", 1], "--rank belongs to"),
    ):
        ran = run("repair", zoo / "badnet-refusal", *base, *options)
        assert ran.code == 2
        assert said in ran.error_line
    model = make_model("base", llava_tensors())
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["linear_1"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    key = "base_model.model.multi_modal_projector.linear_1.lora_{}.weight"
    tensors = {key.format("A"): torch.ones(2, 12), key.format("B"): torch.ones(20, 2)}
    (adapter / "adapter_model.safetensors").write_bytes(save(tensors))
    ran = run("repair", adapter, "--base", model, "--out", tmp_path / "out", "--method", "clip")
    assert ran.code == 2
    assert "has no place for a guard; merge it" in ran.error_line
    assert not (tmp_path / "out").exists()
