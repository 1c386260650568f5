"""The command line as a user meets it: help, exit codes, and bad input in one line with nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import projclean
from projclean import cli
from projclean.probe_settings import ProbeSettings
from projclean.seeds import SEEDS
from tests.conftest import llava_tensors


def test_help_names_every_command_with_an_example(run):
    top = run("--help")
    assert top.code == 0
    for name in cli.COMMANDS:
        assert name in top.out
        one = run(name, "--help")
        assert one.code == 0
        assert f"projclean {name} " in one.out.split("Example:")[1]


def test_help_and_import_load_nothing_heavy():
    code = (
        "import sys, projclean, projclean.cli; projclean.cli.main(['scan', '--help']); "
        "print(sorted({'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_version_and_api(run):
    assert projclean.__version__ in run("--version").out
    for name in projclean.__all__:
        assert getattr(projclean, name) is not None
    with pytest.raises(AttributeError):
        _ = projclean.nonsense


def test_usage_errors_exit_two_in_one_line(run):
    assert "no such option" in run("scan", "x", "--nonsense").error_line.lower()
    assert "missing argument" in run("scan").error_line.lower()
    assert "no such command" in run("frobnicate").error_line.lower()
    for arguments in (("scan", "x", "--nonsense"), ("scan",), ("frobnicate",), ("scan", "x", "--format", "poem")):
        assert run(*arguments).code == 2


def test_a_bug_is_not_a_verdict(run, monkeypatch):
    def boom(*_, **__):
        raise RuntimeError("boom")

    monkeypatch.setattr("projclean.scanner.open_case", boom)
    ran = run("scan", "anything", "--base", "b")
    assert ran.code == 2
    assert "unexpected RuntimeError" in ran.err


def test_weights_only_scan_is_inconclusive(pair, run):
    suspect, base = pair
    ran = run("scan", suspect, "--base", base, "--no-probe")
    assert ran.code == 2
    assert "INCONCLUSIVE" in ran.out
    assert "multi_modal_projector.linear_1" in ran.out
    assert run("scan", suspect, "--base", base, "--no-probe", "--exit-zero").code == 0
    assert run("scan", suspect, "--base", base, "--no-probe", "--fail-on", "suspicious").code == 0


def test_identical_projector_is_clean(pair, run):
    _, base = pair
    assert run("scan", base, "--base", base).code == 0


def test_without_a_base_it_says_what_to_pass(pair, run):
    suspect, _ = pair
    ran = run("scan", suspect)
    assert ran.code == 2
    assert "INCONCLUSIVE" in ran.out
    assert "--base" in ran.out


def test_base_named_by_the_model_is_used_and_distrusted(make_model, run):
    make_model("the-base", llava_tensors())
    suspect = make_model("s", llava_tensors(), _name_or_path="the-base")
    ran = run("scan", suspect, "--no-probe", "--ignore-elsewhere", "--format", "json")
    report = json.loads(ran.out)
    assert report["base_named_by"] == "config.json"
    assert any("named by the suspect's own config.json" in caveat for caveat in report["verdict"]["caveats"])


def test_model_card_names_the_base(make_model, run):
    make_model("the-base", llava_tensors())
    suspect = make_model("s", llava_tensors())
    (suspect / "README.md").write_text("---\nbase_model: the-base\n---\n")
    assert json.loads(run("scan", suspect, "--no-probe", "--format", "json").out)["base_named_by"] == "model card"


def test_json_is_one_document_and_repeats(pair, run):
    suspect, base = pair
    first = run("scan", suspect, "--base", base, "--no-probe", "--format", "json")
    again = run("scan", suspect, "--base", base, "--no-probe", "--format", "json")
    assert first.out == again.out
    report = json.loads(first.out)
    assert report["schema_version"] == 1
    assert report["kind"] == "scan"
    assert len(report["sha256"]["suspect"]) == 64
    assert first.err == ""


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
@pytest.mark.parametrize("command", ["scan", "series", "repair", "calibrate", "lens"])
def test_a_seed_out_of_range_is_refused_before_any_work(pair, run, tmp_path, command, seed):
    suspect, base = pair
    arguments = {
        "scan": ["scan", suspect], "series": ["scan", suspect, suspect], "lens": ["lens", suspect],
        "repair": ["repair", suspect, "--out", tmp_path / "out"],
        "calibrate": ["calibrate", suspect],
    }[command]  # fmt: skip
    assert f"--seed {seed}: must lie between 0 and" in run(*arguments, "--base", base, "--seed", seed).error_line


def test_the_largest_seed_is_fit_for_every_generator():
    np.random.default_rng(SEEDS - 1)
    settings = ProbeSettings()
    torch.Generator().manual_seed((SEEDS - 1) * max(settings.starts, settings.partings) + 99)


def spoil(how, pair, make_model, tmp_path):
    """Arguments of a repair that cannot work, and what the message must name."""
    suspect, base = pair
    out = tmp_path / "out"
    good = ["repair", suspect, "--base", base, "--out", out]
    if how == "not a model directory":
        return ["repair", tmp_path, "--base", base, "--out", out], str(tmp_path)
    if how == "missing base":
        return ["repair", suspect, "--base", tmp_path / "gone", "--out", out], "gone"
    if how == "no base at all":
        return ["repair", suspect, "--out", out], "--base"
    if how == "no projector":
        bare = make_model("plain", {"language_model.layers.0.weight": torch.zeros(2, 2)})
        return ["repair", bare, "--base", base, "--out", out], "--projector"
    if how == "base of another shape":
        other = make_model("other", llava_tensors(vision=16))
        return ["repair", suspect, "--base", other, "--out", out], "other"
    if how == "truncated":
        (suspect / "model.safetensors").write_bytes((suspect / "model.safetensors").read_bytes()[:-9])
        return good, "model.safetensors"
    if how == "NaN":
        tensors = llava_tensors()
        tensors["multi_modal_projector.linear_1.bias"][0] = float("nan")
        return ["repair", make_model("nan", tensors), "--base", base, "--out", out], "NaN"
    if how == "unreadable":
        (suspect / "config.json").unlink()
        (suspect / "config.json").mkdir()
        return good, "config.json"
    if how == "unwritable output":
        (tmp_path / "file").write_text("x")
        return ["repair", suspect, "--base", base, "--out", tmp_path / "file" / "out"], "file"
    if how == "output exists":
        (tmp_path / "there").mkdir()
        return ["repair", suspect, "--base", base, "--out", tmp_path / "there"], "--force"
    if how == "model that cannot be run":
        return good, "transformers cannot load"
    extra = {
        "unknown method": (["--method", "prayer"], "prayer"),
        "rank 0": (["--rank", "0"], "--rank 0"),
        "rank above the layer's": (["--rank", "13"], "between 1 and 12"),
        "rank of words": (["--rank", "some"], "whole number"),
        "rank with shrink": (["--method", "shrink", "--rank", "2"], "--strength"),
        "λ of 0": (["--method", "shrink", "--strength", "0"], "above 0"),
        "λ of nothing": (["--method", "shrink", "--strength", "nan"], "above 0"),
        "λ without end": (["--method", "shrink", "--strength", "inf"], "at most 1e+06"),
        "share above 1": (["--method", "interpolate", "--strength", "1.5"], "between 0 and 1"),
        "missing evaluation": (["--eval", tmp_path / "gone.toml"], "gone.toml"),
        "missing images": (["--images", tmp_path / "gone"], "gone"),
    }[how]
    return good + extra[0], extra[1]


@pytest.mark.parametrize(
    "how",
    [
        "not a model directory", "missing base", "no base at all", "no projector", "base of another shape", "truncated",
        "NaN", "unreadable", "unwritable output", "output exists", "unknown method", "rank 0", "rank above the layer's",
        "rank of words", "rank with shrink", "λ of 0", "share above 1", "missing evaluation", "missing images",
        "model that cannot be run",
    ],
)  # fmt: skip
def test_bad_input_is_one_line_exit_two_and_nothing_left(how, pair, make_model, tmp_path, run):
    arguments, named = spoil(how, pair, make_model, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ran = run(*arguments)
    assert ran.code == 2
    assert named in ran.error_line
    assert ran.error_line.startswith("error: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_differs_in_its_language_model_is_not_cleared_by_names_and_shapes(pair, make_model, run):
    _, base = pair
    tampered = llava_tensors()
    other = next(name for name in tampered if "projector" not in name)
    tampered[other] *= 1.7
    model = make_model("tampered", tampered)
    ran = run("scan", model, "--base", base, "--no-probe")
    assert ran.code == 2
    assert "were not compared by value" in " ".join(ran.out.split())
    ran = run("scan", model, "--base", base, "--format", "json")
    assert (ran.code, json.loads(ran.out)["elsewhere"]) == (2, [f"tensor {other}: other values"])


def test_a_model_is_no_base_of_its_own(pair, run):
    _, base = pair
    for model in (base, f"{base}/../base"):
        ran = run("scan", model, "--base", base, "--format", "json")
        caveats = json.loads(ran.out)["verdict"]["caveats"]
        assert any("the base is the suspect itself" in caveat for caveat in caveats)
        assert any("nothing was run" in caveat for caveat in caveats)
        assert not any("this probe" in caveat for caveat in caveats)


def test_the_program_alone_shows_its_help(run):
    ran = run()
    assert (ran.code, ran.out) == (2, "")
    assert "Example:\n    projclean scan models/suspect" in ran.err
    assert "error:" not in ran.err


def test_a_card_names_images_without_the_folders_on_the_way(pair, run, tmp_path):
    from projclean.card import provenance
    from tests.samples import repair_result

    told = provenance(replace(repair_result(), images="96 images from /home/alice/`my\nimages"))
    assert "96 images from `'my\\nimages`, seed 0" in told
    assert "alice" not in told
    assert "72 built-in images (seed 0), seed 0" in provenance(repair_result())
