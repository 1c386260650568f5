"""Every model type's projector: found exactly, its planted update recovered, repaired and loaded again."""

from __future__ import annotations

import pytest
import torch

from eval.architectures import architectures, build, layer_parameters
from eval.coverage import examine, plant, recovers, repairs, save
from eval.coverage_page import DOCUMENT, LAYOUTS
from projclean.case import open_case
from projclean.projectors import families

# Types that share structure and key layout with one that the quick run has.
SLOW = {
    "llava_next_video", "llava_onevision", "video_llava", "shieldgemma2", "pp_chart2table", "cohere2_vision",
    "colqwen2", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "qwen3_omni_moe", "qwen3_vl_moe", "qwen3_5_moe",
    "exaone4_5", "glm4v_moe", "glm46v", "glmga", "glm5_next", "glm_ocr", "smolvlm", "ultravbert", "instructblip",
    "instructblipvideo", "kosmos-2.5", "unlimited_ocr", "minicpmv4_7", "minicpm_ocr", "muse_glimmer", "lfm3_vl",
    "audioflamingo3", "musicflamingo", "voxtral", "voxtral_realtime", "glmasr", "qwen3_asr",
    "moss_transcribe_diarize", "granite_speech_plus", "nemo_speechlm", "qwen2_5_omni", "vibevoice", "vibevoice_asr",
}  # fmt: skip
TYPES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in architectures()]


@pytest.mark.parametrize("model_type", TYPES)
def test_projector_is_found_and_repaired_in_every_layout(model_type, tmp_path):
    row = examine(model_type, tmp_path)
    assert dict(zip(LAYOUTS, row.results, strict=True)) == dict.fromkeys(LAYOUTS, (True, True)), row
    assert str(row) in DOCUMENT.read_text(encoding="utf-8").splitlines(), "run python -m eval.coverage"


@pytest.mark.parametrize("model_type", ["llava", "gemma3", "got_ocr2", "aria", "kosmos-2"])
def test_half_precision(model_type, tmp_path):
    assert examine(model_type, tmp_path, torch.bfloat16).works


def test_the_document_lists_every_type_and_counts_them():
    text = DOCUMENT.read_text(encoding="utf-8").partition("## Every type")[2]
    listed = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert listed == list(architectures())
    assert f"{len(listed)} of {len(listed)} model types work" in DOCUMENT.read_text(encoding="utf-8")
    assert len(listed) > 100


def test_the_checks_themselves_can_fail(tmp_path):
    model = build("llava")
    save(model, tmp_path / "base", "llava", "saved", sharded=False)
    planted = plant(model, layer_parameters(model, "llava"))
    save(model, tmp_path / "suspect", "llava", "saved", sharded=False)
    case = open_case(tmp_path / "suspect", str(tmp_path / "base"))
    where = {layer.name: (f"model.{layer.name}.weight", None) for layer in case.update.layers}
    assert recovers(case, where, planted, 1.0)
    first, *rest = planted
    assert not recovers(case, where, {place: planted[place] for place in rest}, 1.0)
    assert not recovers(case, where, planted | {first: planted[first].roll(1, 0)}, 1.0)
    assert not recovers(case, where, planted | {("model.language_model.norm.weight", None): planted[first]}, 1.0)
    assert repairs(case, model, tmp_path / "repaired")
    with torch.no_grad():
        model.get_parameter("model.language_model.norm.weight").add_(1)
    assert not repairs(case, model, tmp_path / "repaired")


def test_every_type_has_a_family_of_its_own():
    known = [name for family in families() for name in family["model_types"]]
    assert len(known) == len(set(known))
    assert not set(architectures()) - set(known)
