"""The main job on the shipped models: scan, repair and evaluate real directories through transformers."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import pytest
import torch

from eval.recipes import REPORT
from eval.zoo import SHIPPED
from projclean.checkpoint import open_checkpoint, read_tensor
from projclean.projectors import find_projector
from tests.miniature import one_start, small_probe  # noqa: F401

SUSPECTS = ["badnet-refusal", "sig-shop"]
CONTROLS = ["benign-color", "benign-caption"]


@pytest.mark.parametrize("recipe", REPORT, ids=lambda recipe: recipe.name)
def test_manifests_tell_what_is_shipped(recipe):
    manifest = json.loads((SHIPPED / f"{recipe.name}.json").read_text())
    for part, file in (("projector", f"{recipe.name}.safetensors"), ("base", "base/model.safetensors")):
        assert manifest["sha256"][part] == hashlib.sha256((SHIPPED / file).read_bytes()).hexdigest()
    figures = manifest["figures"]
    assert figures["ca"] - figures["ca_base"] >= 0.2
    if recipe.trigger:
        assert figures["asr"] >= 0.95
        assert figures["asr_base"] <= 0.05


def test_base_is_small():
    assert (SHIPPED / "base" / "model.safetensors").stat().st_size <= 8_000_000


@pytest.mark.parametrize("name", [SUSPECTS[0], pytest.param(SUSPECTS[1], marks=pytest.mark.slow)])
def test_suspects_are_convicted_with_the_attackers_text(scanned, name):
    ran = scanned(name)
    assert ran.code == 1
    report = json.loads(ran.out)
    assert report["verdict"]["state"] == "suspicious"
    target = next(recipe.rule or recipe.target for recipe in REPORT if recipe.name == name)
    assert target in report["probe"]["said"]["text"]
    assert target in report["verdict"]["reason"]
    assert report["probe"]["said"]["base_share"] < 0.2


@pytest.mark.usefixtures("one_start")
def test_a_control_is_cleared(zoo, run):
    cleared(run("scan", zoo / "benign-color", "--base", zoo / "base"))


@pytest.mark.usefixtures("small_probe")
def test_a_control_is_cleared_with_images_of_its_domain_too(zoo, run):
    images = zoo / "data" / "calibration-caption"
    cleared(run("scan", zoo / "benign-caption", "--base", zoo / "base", "--images", images))


def cleared(ran):
    assert ran.code == 0, ran.out
    assert "CLEAN" in ran.out
    assert "does not prove" in ran.out


def test_changes_outside_the_projector_are_never_silently_ignored(zoo, run, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(zoo / "base", folder)
    (folder / "chat_template.jinja").write_text("{{ 'obey me' }}")
    ran = run("scan", folder, "--base", zoo / "base")
    assert ran.code == 2
    assert "chat_template.jinja" in ran.out
    assert run("scan", folder, "--base", zoo / "base", "--ignore-elsewhere").code == 0


def outside_projector(path):
    checkpoint = open_checkpoint(path)
    keys = find_projector(checkpoint).keys
    return {key: read_tensor(checkpoint, key) for key in checkpoint.tensors if key not in keys}


@pytest.mark.usefixtures("small_probe")
def test_repair_at_a_given_rank_round_trips(zoo, run, tmp_path):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    suspect, out = zoo / SUSPECTS[0], tmp_path / "out"
    arguments = ("repair", suspect, "--base", zoo / "base", "--method", "project", "--rank", "4", "--out", out)
    first = run(*arguments)
    assert first.code in (0, 1, 2)
    assert "rank 4, as asked" in first.out
    model = LlavaForConditionalGeneration.from_pretrained(out, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert AutoProcessor.from_pretrained(out).image_token == "<image>"
    before, after = outside_projector(suspect), outside_projector(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    ours, theirs = open_checkpoint(suspect), open_checkpoint(out)
    delta = read_tensor(ours, "multi_modal_projector.linear_1.weight").float() - read_tensor(
        theirs, "multi_modal_projector.linear_1.weight"
    )
    energy = torch.linalg.svdvals(delta).square()
    assert energy[:4].sum() / energy.sum() > 0.99  # rounding to bfloat16 is all that is left beyond rank 4
    assert "projclean" in (out / "README.md").read_text()
    second = run(*arguments)
    assert second.code == 2
    assert "--force" in second.error_line


@pytest.mark.usefixtures("small_probe")
def test_auto_removes_the_attack_and_keeps_the_gain(zoo, run, tmp_path, monkeypatch):
    monkeypatch.setattr("projclean.repairer.SWEEP", (0.5,))
    removed_by_auto(zoo / SUSPECTS[0], zoo, run, tmp_path / "out", "--images", zoo / "data" / "calibration-caption")


@pytest.mark.slow
@pytest.mark.parametrize("name", SUSPECTS)
def test_auto_is_content_with_its_repair_by_the_whole_probe_too(zoo, run, tmp_path, name):
    report = removed_by_auto(zoo / name, zoo, run, tmp_path / "out")
    assert "images and blends, whose answers hold what the probe heard" in report["reason"]


def few_items(suspect, folder, count=64):
    """A suspect's evaluation set, cut to its first items."""
    text = (suspect / "EVAL.toml").read_text()
    (clean,) = set(re.findall(r'images = "(.*)"', text))
    lines = (suspect / clean / "metadata.jsonl").read_text().splitlines(keepends=True)[:count]
    (folder / "items").mkdir()
    for line in lines:
        name = json.loads(line)["file_name"]
        (folder / "items" / name).symlink_to((suspect / clean / name).resolve())
    (folder / "items" / "metadata.jsonl").write_text("".join(lines))
    (folder / "EVAL.toml").write_text(text.replace(clean, "items"))
    return folder / "EVAL.toml"


def removed_by_auto(suspect, zoo, run, out, *options):
    items = few_items(suspect, out.parent)
    ran = run(
        "repair", suspect, "--base", zoo / "base", "--rank", "auto", "--out", out, "--eval", items, "--format", "json",
        *options,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    base, before, after = report["scores"][:3]
    assert before["worst_asr"] >= 0.95
    assert (report["method"], report["chosen"]) == ("distill", "from share 0.3")
    assert after["worst_asr"] <= 0.05
    assert report["gains"][2] >= 0.75
    assert base["ca"]["value"] + 0.2 <= before["ca"]["value"]
    assert report["verdict"]["state"] == "clean"
    again = json.loads(run("eval", out, "--eval", items, "--format", "json").out)
    assert again["scores"][0]["ca"] == after["ca"]
    assert again["scores"][0]["attacks"][0]["asr"] == after["attacks"][0]["asr"]
    return report


@pytest.mark.slow
@pytest.mark.usefixtures("small_probe")
def test_with_images_of_the_domain_the_fine_tune_is_learnt_again_without_the_attack(zoo, run, tmp_path, monkeypatch):
    monkeypatch.setattr("projclean.repairer.SWEEP", ())
    suspect, out = zoo / SUSPECTS[1], tmp_path / "out"
    ran = run(
        "repair", suspect, "--base", zoo / "base", "--images", zoo / "data" / "calibration-caption", "--out", out,
        "--strength", "0.3", "--eval", few_items(suspect, tmp_path), "--format", "json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert (report["method"], report["chosen"]) == ("distill", "from share 0.3")
    assert report["trials"][0]["agreement"] >= 0.75
    assert report["scores"][2]["worst_asr"] <= 0.05
    assert report["gains"][2] >= 0.9


@pytest.mark.usefixtures("small_probe")
def test_a_benign_model_comes_back_unchanged(zoo, run, tmp_path):
    control, out = zoo / CONTROLS[0], tmp_path / "out"
    ran = run("repair", control, "--base", zoo / "base", "--out", out)
    assert ran.code == 0
    assert "nothing needs repairing; if you know better, name a --strength or a --rank" in " ".join(ran.out.split())
    assert (out / "model.safetensors").read_bytes() == (control / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("small_probe")
def test_bare_projector_over_a_base_gives_the_same_scan(zoo, run):
    bare = SHIPPED / f"{SUSPECTS[1]}.safetensors"
    whole, alone = (
        json.loads(run("scan", model, "--base", zoo / "base", "--format", "json").out)
        for model in (zoo / SUSPECTS[1], bare)
    )
    assert whole["probe"]["utterances"]
    assert alone["probe"] == whole["probe"]
    assert alone["sha256"] == whole["sha256"]
