"""Finding projectors by name, in saved and live layouts, and refusing what only looks like one."""

from __future__ import annotations

import pytest

from projclean.checkpoint import open_checkpoint
from projclean.errors import OptionError, ProjectorNotFound
from projclean.projectors import canonical, find_projector, match_projector
from tests.conftest import llava_tensors

# model_type, tensors inside the projector, tensors that are not (with the shapes they have in the real models, /64)
KNOWN = [
    ("llava", {"multi_modal_projector.linear_1.weight": (64, 16), "multi_modal_projector.linear_2.weight": (64, 64)},
     {"language_model.model.layers.0.mlp.up_proj.weight": (8, 8), "vision_tower.x.weight": (8, 8)}),
    ("llava_llama", {"model.mm_projector.0.weight": (64, 16), "model.mm_projector.2.weight": (64, 64)}, {}),
    ("paligemma", {"multi_modal_projector.linear.weight": (32, 18)}, {}),
    ("mistral3", {"multi_modal_projector.patch_merger.merging_layer.weight": (16, 64),
                  "multi_modal_projector.linear_1.weight": (80, 16),
                  "multi_modal_projector.linear_2.weight": (80, 80)}, {}),
    ("mllama", {"multi_modal_projector.weight": (64, 120)}, {}),
    ("internvl", {"multi_modal_projector.linear_1.weight": (64, 64),
                  "multi_modal_projector.linear_2.weight": (64, 64)}, {}),
    ("internvl_chat", {"mlp1.1.weight": (64, 64), "mlp1.3.weight": (64, 64)}, {}),
    ("qwen2_vl", {"visual.merger.mlp.0.weight": (80, 80), "visual.merger.mlp.2.weight": (56, 80)},
     {"visual.blocks.0.mlp.fc1.weight": (8, 8)}),
    ("qwen2_5_vl", {"visual.merger.mlp.0.weight": (80, 80), "visual.merger.mlp.2.weight": (56, 80)}, {}),
    ("qwen3_vl", {"model.visual.merger.linear_fc1.weight": (72, 72), "model.visual.merger.linear_fc2.weight": (56, 72),
                  "model.visual.deepstack_merger_list.0.linear_fc1.weight": (72, 72),
                  "model.visual.deepstack_merger_list.10.linear_fc2.weight": (56, 72)}, {}),
    ("idefics2", {"model.connector.modality_projection.gate_proj.weight": (56, 12),
                  "model.connector.perceiver_resampler.layers.0.self_attn.k_proj.weight": (6, 64)},
     {"model.connector.perceiver_resampler.latents": (64, 64)}),
    ("idefics3", {"model.connector.modality_projection.proj.weight": (64, 72)}, {}),
    ("smolvlm", {"model.connector.modality_projection.proj.weight": (64, 72)}, {}),
    ("blip-2", {"language_projection.weight": (40, 12),
                "qformer.encoder.layer.0.crossattention.attention.key.weight": (12, 22),
                "qformer.encoder.layer.2.crossattention.attention.value.weight": (12, 22)},
     {"qformer.encoder.layer.0.attention.attention.key.weight": (12, 12), "query_tokens": (32, 12)}),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "inside", "outside"), KNOWN, ids=[entry[0] for entry in KNOWN])
@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model."])
@pytest.mark.parametrize("typed", [True, False], ids=["typed", "untyped"])
def test_known_families_in_every_layout(model_type, inside, outside, prefix, typed):
    names = {prefix + name: shape for name, shape in {**inside, **outside}.items()}
    names |= {
        name.removesuffix("weight") + "bias": (shape[0],) for name, shape in names.items() if name.endswith("weight")
    }
    spec = match_projector(names, model_type if typed else None)
    assert spec is not None
    assert {layer.weight for layer in spec.layers} == {prefix + name for name in inside}
    assert {layer.name for layer in spec.layers} == {canonical(name).removesuffix(".weight") for name in inside}
    assert all(layer.bias == layer.weight.removesuffix("weight") + "bias" for layer in spec.layers)
    assert not spec.keys & {prefix + name for name in outside if "latents" not in name and "qformer" not in name}


def test_gemma3_is_stored_transposed():
    names = {
        "multi_modal_projector.mm_input_projection_weight": (18, 40),
        "multi_modal_projector.mm_soft_emb_norm.weight": (18,),
    }
    for model_type in ("gemma3", None):
        spec = match_projector(names, model_type)
        assert spec is not None
        (layer,) = spec.layers
        assert (layer.transposed, layer.shape, layer.bias) == (True, (40, 18), None)
        assert layer.input_from == "multi_modal_projector.mm_soft_emb_norm"
        assert list(spec.others) == ["multi_modal_projector.mm_soft_emb_norm.weight"]


def test_layers_come_in_natural_order():
    names = {f"visual.deepstack_merger_list.{n}.linear_fc1.weight": (4, 4) for n in (10, 2, 1)}
    spec = match_projector(names, "qwen3_vl")
    assert spec is not None
    assert [layer.weight.split(".")[2] for layer in spec.layers] == ["1", "2", "10"]


def test_decoys_do_not_match():
    names = {
        "visual_projection.weight": (8, 8),  # CLIP's own head
        "language_model.model.layers.0.self_attn.o_proj.weight": (8, 8),
        "my_multi_modal_projector_copy.weight": (8, 8),
        "vision_tower.merger.weight": (8, 8),
    }
    assert match_projector(names, None) is None
    assert match_projector(names, "llava") is None


def test_pattern_of_the_users_own(make_model):
    model = make_model("m", {f"bridge.{key}": value for key, value in llava_tensors().items()}, model_type="unheard")
    checkpoint = open_checkpoint(model)
    with pytest.raises(ProjectorNotFound, match="--projector REGEX"):
        find_projector(checkpoint)
    spec = find_projector(checkpoint, r"bridge\.multi.*weight")
    assert len(spec.layers) == 2
    with pytest.raises(ProjectorNotFound, match="matches no matrix"):
        find_projector(checkpoint, "no_such_thing")
    with pytest.raises(OptionError, match="regular expression"):
        find_projector(checkpoint, "(unclosed")
