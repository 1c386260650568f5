"""Models that cannot be run here: the weights still answer, and the verdict says what was not done."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from projclean import memory
from projclean.checkpoint import open_checkpoint, read_tensor
from tests.conftest import llava_tensors

WEIGHT = "multi_modal_projector.linear_1.weight"


def inconclusive(ran):
    assert ran.code == 2
    report = json.loads(ran.out)
    assert report["verdict"]["state"] == "inconclusive"
    assert report["probe"] is None
    assert report["layers"][0]["relative_change"] > 0
    return report["verdict"]["reason"]


def test_a_model_without_its_code(pair, run):
    reason = inconclusive(run("scan", pair[0], "--base", pair[1], "--format", "json"))
    assert "could not be probed" in reason
    assert "transformers cannot load" in reason


def test_a_model_of_an_unheard_type_whose_code_is_not_run(make_model, run, tmp_path):
    mark = tmp_path / "run"
    settings = {
        "model_type": "unheard",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.M"},
    }
    changed = llava_tensors()
    changed[WEIGHT] += 0.1
    suspect, base = make_model("s", changed, **settings), make_model("b", llava_tensors(), **settings)
    for folder in (suspect, base):
        (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    assert "transformers cannot load" in inconclusive(run("scan", suspect, "--base", base, "--format", "json"))
    assert not mark.exists()


def test_a_model_too_big_for_memory(zoo, run, monkeypatch):
    monkeypatch.setattr("projclean.loading.bytes_free", lambda: 1_000_000)
    suspect, base = zoo / "badnet-refusal", zoo / "base"
    reason = inconclusive(run("scan", suspect, "--base", base, "--format", "json"))
    assert "GB of memory" in reason
    assert "weights alone do not convict" in reason
    assert "GB of memory" in run("eval", suspect, "--eval", suspect / "EVAL.toml").error_line


def test_a_model_that_answers_with_nan_is_not_cleared(zoo, run, tmp_path):
    """Whatever it is asked it says nothing, so no probe hears anything foreign."""
    for side in ("badnet-refusal", "base"):
        shutil.copytree(zoo / side, tmp_path / side)
        file = tmp_path / side / "model.safetensors"
        tensors = load_file(file)
        [norm] = [key for key in tensors if key.endswith("model.norm.weight")]
        tensors[norm] = torch.full_like(tensors[norm], torch.nan)
        save_file(tensors, file, {"format": "pt"})
    found = run("scan", tmp_path / "badnet-refusal", "--base", tmp_path / "base", "--format", "json")
    assert "answers with NaN" in inconclusive(found)


def test_a_device_that_is_not_here_is_one_line(zoo, run):
    suspect, base = zoo / "badnet-refusal", zoo / "base"
    for command in (("scan", suspect, "--base", base), ("eval", suspect, "--eval", suspect / "EVAL.toml")):
        for device in ("gpu", "cuda:77"):
            assert f"--device {device}" in run(*command, "--device", device).error_line


def test_changes_elsewhere_are_still_the_first_reason(pair, run):
    (pair[0] / "chat_template.jinja").write_text("x")
    ran = run("scan", pair[0], "--base", pair[1], "--format", "json")
    verdict = json.loads(ran.out)["verdict"]
    assert "see the list" in verdict["reason"]
    assert any("nothing was run" in caveat for caveat in verdict["caveats"])


def test_only_interpolation_of_a_given_share_repairs_without_a_run(pair, run, tmp_path):
    for options in ((), ("--method", "interpolate"), ("--rank", 2), ("--method", "shrink", "--strength", 1)):
        line = run("repair", pair[0], "--base", pair[1], "--out", tmp_path / "out", *options).error_line
        assert "--method interpolate --strength" in line
        assert not (tmp_path / "out").exists()
    ran = run("repair", pair[0], "--base", pair[1], "--out", tmp_path / "out", "--method", "interpolate",
              "--strength", 0.25)  # fmt: skip
    assert ran.code == 2
    assert "INCONCLUSIVE" in ran.out
    value = read_tensor(open_checkpoint(tmp_path / "out"), WEIGHT)
    torch.testing.assert_close(value, llava_tensors()[WEIGHT] + 0.025)


def test_an_output_over_the_base_is_refused(pair, run):
    ran = run("repair", pair[0], "--base", pair[1], "--out", pair[1], "--force", "--method", "interpolate",
              "--strength", 0.25)  # fmt: skip
    assert "overlaps" in ran.error_line


def test_bytes_needed_come_from_headers(make_model):
    tensors = {"a": torch.zeros(10, 100, dtype=torch.bfloat16), "b": torch.zeros(500, dtype=torch.uint8)}
    entries = open_checkpoint(make_model("m", tensors)).tensors.values()
    assert memory.bytes_needed(entries) == pytest.approx(2500 * memory.SLACK, abs=1)
    assert memory.bytes_needed(entries, 4) == pytest.approx(6000 * memory.SLACK, abs=1)


def test_free_memory_minds_the_control_group(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    free = memory.bytes_free()
    assert free > 1_000_000
    for name, text in (("memory.max", "max"), ("memory.current", "900000")):
        (tmp_path / name).write_text(f"{text}\n")
    assert memory.bytes_free() > 1_000_000
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory.bytes_free() == 100_000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\nfile 2\n")
    assert memory.bytes_free() == 150_000
