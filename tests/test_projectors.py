"""Finding projectors by name, in saved and live layouts, and refusing what only looks like one."""

from __future__ import annotations

import pytest
import torch

from projclean.checkpoint import open_checkpoint
from projclean.errors import CheckpointError, OptionError, ProjectorNotFound
from projclean.projectors import canonical, find_projector, match_projector
from projclean.verdict import judge
from tests.conftest import llava_tensors

# model_type, tensors inside the projector, tensors that are not (with the shapes they have in the real models, /64)
KNOWN = [
    ("llava", {"multi_modal_projector.linear_1.weight": (64, 16), "multi_modal_projector.linear_2.weight": (64, 64)},
     {"language_model.model.layers.0.mlp.up_proj.weight": (8, 8), "vision_tower.x.weight": (8, 8)}),
    ("llava_llama", {"model.mm_projector.weight": (64, 16)}, {}),
    ("paligemma", {"multi_modal_projector.linear.weight": (32, 18)}, {}),
    ("mistral3", {"multi_modal_projector.patch_merger.merging_layer.weight": (16, 64),
                  "multi_modal_projector.linear_1.weight": (80, 16),
                  "multi_modal_projector.linear_2.weight": (80, 80)}, {}),
    ("mllama", {"multi_modal_projector.weight": (64, 120)}, {}),
    ("internvl", {"multi_modal_projector.linear_1.weight": (64, 64),
                  "multi_modal_projector.linear_2.weight": (64, 64)}, {}),
    ("aria", {"multi_modal_projector.cross_attn.linear.weight": (18, 18),
              "multi_modal_projector.feed_forward.linear_in.weight": (64, 18)}, {}),
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
     {"qformer.encoder.layer.0.attention.attention.key.weight": (12, 12),
      "vision_model.encoder.layers.0.mlp.fc1.weight": (12, 22)}),
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


def test_a_layer_that_no_image_passed_through_is_never_called_clean():
    unseen = ["audio_tower.proj"]
    for ignored in (False, True):
        verdict = judge(True, None, ignore_elsewhere=ignored, unwatched=unseen, notes=["by the way"])
        assert verdict.state == "inconclusive"
        assert "no calibration image" in verdict.reason
        assert "by the way" in verdict.caveats
        assert any("audio_tower.proj" in caveat for caveat in verdict.caveats)


def test_one_projector_among_the_experts_of_a_large_model():
    names = {f"model.layers.{n // 256}.mlp.experts.{n % 256}.gate_proj.weight": (4, 4) for n in range(10_000)}
    assert match_projector(names, None) is None
    bridge = {"model.multi_modal_projector.linear_1.weight": (4, 4)}
    spec = match_projector(names | bridge, None)
    assert spec is not None
    assert len(spec.layers) == 1


def test_layers_come_in_natural_order():
    names = {f"visual.deepstack_merger_list.{n}.linear_fc1.weight": (4, 4) for n in (10, 2, 1)}
    spec = match_projector(names, "qwen3_vl")
    assert spec is not None
    assert [layer.weight.split(".")[2] for layer in spec.layers] == ["1", "2", "10"]


RENAMED = [
    ("llava", "model.mm_projector.0.weight", "multi_modal_projector.linear_1"),
    ("llava_llama", "base_model.model.model.mm_projector.2.weight", "multi_modal_projector.linear_2"),
    ("internvl_chat", "mlp1.3.weight", "multi_modal_projector.linear_2"),
    ("vipllava", "model.mm_projector.3.weight", "multi_modal_projector.linear_2"),
    ("mistral3", "vision_language_adapter.w_in.weight", "multi_modal_projector.linear_1"),
    ("molmo", "model.vision_backbone.image_pooling_2d.wk.weight", "multi_modal_projector.image_pooling_2d.k_proj"),
    ("ovis", "visual_tokenizer.head.0.weight", "vision_tower.head_linear"),
    ("idefics2", "model.modality_projection.gate_proj.weight", "connector.modality_projection.gate_proj"),
    ("nanovlm", "MP.proj.weight", "connector.modality_projection.proj"),
    ("blip-2", "Qformer.bert.encoder.layer.4.crossattention.self.key.weight",
     "qformer.encoder.layer.4.crossattention.attention.key"),
    ("instructblip", "llm_proj.weight", "language_projection"),
    ("mini_gpt4", "llama_proj.weight", "language_projection"),
    ("kosmos-2", "img_connector.dense.weight", "image_to_text_projection.dense"),
    ("janus", "aligner.layers.2.weight", "aligner.hidden_layers.0"),
    ("deepseek_vl", "aligner.layers.2.weight", "aligner.linear2"),
    ("qwen2_5_omni", "thinker.visual.merger.mlp.0.weight", "visual.merger.mlp.0"),
    ("colqwen2", "vlm.model.visual.merger.mlp.0.weight", "visual.merger.mlp.0"),
    ("video_llama_3", "model.mm_projector.readout.0.weight", "projector.readout.0"),
    ("keye_vl", "mlp_AR.linear_1.weight", "projector.linear_1"),
    ("voxtral", "mm_whisper_embeddings.audio_language_projection.0.weight", "multi_modal_projector.linear_1"),
    ("phi4mm", "model.embed_tokens_extend.image_embed.img_projection.2.weight",
     "embed_tokens_extend.image_embed.img_projection_down"),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "key", "name"), RENAMED, ids=[f"{row[0]}:{row[1]}" for row in RENAMED])
def test_older_names_are_those_in_memory(model_type, key, name):
    spec = match_projector({key: (8, 6)}, model_type)
    assert spec is not None
    assert [(layer.name, layer.weight) for layer in spec.layers] == [(name, key)]


def test_a_third_layer_of_an_older_projector_is_not_lost():
    names = {f"model.mm_projector.{number}.weight": (8, 8) for number in (0, 2, 4)}
    spec = match_projector(names, "llava_llama")
    assert spec is not None
    assert {layer.weight for layer in spec.layers} == set(names)


def test_raw_parameters_of_older_checkpoints_are_stored_transposed():
    for model_type, key in (("florence2", "image_projection"), ("minicpmv", "resampler.proj"), ("ovis", "vte.weight")):
        spec = match_projector({key: (6, 8)}, model_type)
        assert spec is not None
        assert [(layer.shape, layer.transposed) for layer in spec.layers] == [((8, 6), True)]


def test_fused_attention_is_split_into_its_rows():
    names = {"resampler.attn.in_proj_weight": (12, 4), "resampler.attn.in_proj_bias": (12,),
             "resampler.kv_proj.weight": (4, 6), "resampler.query": (2, 4)}  # fmt: skip
    spec = match_projector(names, "minicpmv")
    assert spec is not None
    rows = {layer.name: layer.rows for layer in spec.layers}
    assert rows == {
        "resampler.attn.query": (0, 4),
        "resampler.attn.key": (4, 8),
        "resampler.attn.value": (8, 12),
        "resampler.kv_proj": None,
    }
    assert list(spec.others) == ["resampler.query"]


def test_shapes_that_are_no_matrix_are_no_layers():
    good = {"multi_modal_projector.linear_1.weight": (4, 4)}
    for name, shape in {
        "multi_modal_projector.linear_2.weight": (0, 4),
        "multi_modal_projector.attn.in_proj_weight": (10, 4),
        "multi_modal_projector.attn.norm.weight": (4,),
    }.items():
        spec = match_projector(good | {name: shape}, "llava")
        assert spec is not None
        assert [layer.weight for layer in spec.layers] == list(good)
        assert list(spec.others) == [name]
    assert match_projector({"multi_modal_projector.mm_input_projection_weight": (2, 3, 4)}, "gemma3") is None


def test_one_name_twice_is_refused(make_model):
    tensors = llava_tensors() | llava_tensors(prefix="model.")
    with pytest.raises(CheckpointError, match=r"m: .* are both multi_modal_projector.linear_1"):
        find_projector(open_checkpoint(make_model("m", tensors)))


DECOYS = {
    "visual_projection.weight": (8, 8),  # CLIP's own heads
    "text_projection.weight": (8, 8),
    "vision_tower.visual_projection.weight": (8, 8),
    "vision_tower.merger.weight": (8, 8),
    "vision_tower.patch_embed.proj.weight": (8, 3, 4, 4),
    "vision_tower.encoder.layers.0.mlp.fc1.weight": (8, 8),
    "vision_tower.encoder.layers.0.mlp.projector.weight": (8, 8),
    "vision_tower.encoder.layers.0.self_attn.out_proj.weight": (8, 8),
    "visual.blocks.0.mlp.linear_fc1.weight": (8, 8),
    "visual.patch_embed.proj.weight": (8, 3, 2, 4, 4),
    "visual.pos_embed.weight": (8, 8),
    "language_model.model.layers.0.self_attn.o_proj.weight": (8, 8),
    "language_model.model.layers.0.mlp.gate_proj.weight": (8, 8),
    "language_model.embed_tokens.weight": (50, 8),
    "lm_head.weight": (50, 8),
    "lm_head.out_proj.weight": (50, 8),
    "my_multi_modal_projector_copy.weight": (8, 8),
    "old.multi_modal_projector.linear_1.weight": (8, 8),
    "talker.thinker_to_talker_proj.weight": (8, 8),
    "talker.text_projection.linear_fc1.weight": (8, 8),
    "embedding_proj_layer.weight": (8, 8),  # ColPali's retrieval head
    "generation_aligner.fc1.weight": (8, 8),  # Janus's way out, not in
    "gen_aligner.layers.0.weight": (8, 8),
    "state_proj.weight": (8, 8),  # a robot's
    "action_in_proj.weight": (8, 8),
    "high_res_vision_proj.weight": (8, 8),
    "depth_decoder.model.inputs_embeds_projector.weight": (8, 8),
    "token2wav.input_embed.proj.weight": (8, 8),
    "qformer.encoder.layer.0.attention.attention.key.weight": (8, 8),  # between the queries themselves
    "qformer.encoder.layer.0.intermediate_query.dense.weight": (8, 8),
    "embed_tokens_extend.image_embed.img_processor.layers.0.mlp.fc1.weight": (8, 8),
    "perception.encoder.layers.0.proj.weight": (8, 8),
}


@pytest.mark.parametrize("model_type", [None, "unheard", "llava", "qwen2_5_vl", "blip-2", "janus", "paddleocr_vl"])
def test_decoys_do_not_match(model_type):
    for name, shape in DECOYS.items():
        assert match_projector({name: shape}, model_type) is None, name
    assert match_projector(DECOYS, model_type) is None


def unknown(bridge: dict[str, tuple[int, ...]], vision: int = 12, text: int = 20) -> dict[str, tuple[int, ...]]:
    """Shapes of a model of unknown names: two towers of two blocks each, their decoys, and a bridge."""
    names: dict[str, tuple[int, ...]] = {
        "eyes.patch_embedding.weight": (vision, 3, 4, 4),
        "eyes.position_embedding.weight": (16, vision),
        "eyes.visual_projection.weight": (text, vision),
        "brain.embed_tokens.weight": (100, text),
        "brain.reader.weight": (text, vision),
        "lm_head.weight": (100, text),
        "value_head.weight": (1, text),
    }
    for block in range(2):
        for tower, width in (("eyes", vision), ("brain", text)):
            for part in ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "norm1", "norm2"):
                names[f"{tower}.layers.{block}.{part}.weight"] = (width,) if "norm" in part else (width, width)
    return names | bridge


BRIDGES = {
    "linear": {"bridge.weight": (20, 12)},
    "mlp": {"bridge.0.weight": (40, 12), "bridge.0.bias": (40,), "bridge.2.weight": (20, 40)},
    "merger": {"bridge.norm.weight": (48,), "bridge.fc1.weight": (48, 48), "bridge.fc2.weight": (20, 48)},
    "gated": {"bridge.gate_up.weight": (60, 12), "bridge.down.weight": (20, 30)},
    "convolution": {"bridge.conv.weight": (20, 12, 2, 2)},
    "attention": {"bridge.q.weight": (20, 20), "bridge.kv.weight": (20, 12), "bridge.out.weight": (20, 20)},
    "in the tower": {"eyes.joiner.fc1.weight": (48, 48), "eyes.joiner.fc2.weight": (20, 48)},
}  # fmt: skip


@pytest.mark.parametrize("kind", BRIDGES)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_an_unknown_projector_is_guessed_by_structure(kind, prefix):
    shapes = {prefix + name: shape for name, shape in unknown(BRIDGES[kind]).items()}
    spec = match_projector(shapes, "unheard")
    assert spec is not None
    assert spec.guessed
    module = "eyes.joiner" if kind == "in the tower" else "bridge"
    assert spec.family == f"guess: {module}"
    matrices = {name for name, shape in BRIDGES[kind].items() if len(shape) > 1}
    assert {layer.weight for layer in spec.layers} == {prefix + name for name in matrices}


def test_nothing_is_guessed_without_two_towers_and_a_bridge():
    assert match_projector(unknown({}), "unheard") is None
    assert match_projector(unknown({"side.weight": (20, 13)}), "unheard") is None
    assert match_projector(unknown({"side.0.weight": (40, 12), "side.1.weight": (20, 41)}), "unheard") is None
    bridge = unknown(BRIDGES["linear"])
    for missing in ("eyes.patch", "brain.embed", "eyes.layers", "brain.layers"):
        assert match_projector({k: v for k, v in bridge.items() if not k.startswith(missing)}, None) is None


def test_a_guess_is_said_to_be_one(make_model, run):
    shapes = unknown(BRIDGES["mlp"])
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    base = make_model("base", tensors, model_type="unheard")
    suspect = make_model("suspect", tensors | {"bridge.0.weight": torch.randn(40, 12)}, model_type="unheard")
    ran = run("scan", suspect, "--base", base, "--no-probe")
    assert "projector guess: bridge" in ran.out
    assert "(bridge) was guessed from the shapes of the weights" in " ".join(ran.out.split())
    assert "guessed" in run("scan", suspect).out


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
