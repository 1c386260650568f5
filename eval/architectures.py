"""Tiny random models of every model type that has a projector, and which of their weights are its layers.

A configuration of transformers' own defaults is shrunk until a model has some hundred thousand parameters: every
size below by its name, the rest by what architectures.toml sets. Nothing is downloaded; weights are drawn from a seed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WIDTH, VISION_WIDTH, VOCABULARY = 32, 48, 128
SPREAD = 0.3  # standard deviation of every parameter

_SIZES = {
    WIDTH: """hidden_size d_model n_embd dim text_hidden_size out_hidden_size output_dim projection_dim
        decoder_hidden_size adapter_out_dim image_token_embed_dim thinker_hidden_size embedding_size
        upsample_initial_channel decoder_dim emb_dim""",
    40: """intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim mlp_dim intermediate_size_mlp
        projection_intermediate_size dense_intermediate_size""",
    16: """moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size image_size crop_size
        moe_shared_expert_intermediate_size shared_intermediate_size moe_hidden_size downsample_hidden_size index_topk
        linear_key_head_dim linear_value_head_dim linear_head_dim index_head_dim ssm_state_size output_channels
        post_conv_in_channels base_channels dim_head hidden_dim num_filters projector_hidden_size chunk_size
        alignment_intermediate_size projection_hidden_dim merged_hidden_size projector_input_dim share_expert_dim
        projector_output_dim depthwise_separable_out_channel ext_pw_out_channel nemo_conv_channels patch_dim
        hidden_size_per_layer_input""",
    2: """num_hidden_layers num_layers encoder_layers decoder_layers depth n_layers n_layer layers num_blocks
        num_experts num_local_experts n_routed_experts moe_num_experts num_key_value_heads linear_num_key_heads
        n_groups n_window
        linear_num_value_heads linear_num_heads num_code_groups num_quantizers num_global_layers mamba_num_heads
        num_res_blocks num_registers mtp_num_hidden_layers num_nextn_predict_layers swa_num_key_value_heads
        num_timestamp_prediction_layers moe_num_shared_experts""",
    4: """num_attention_heads num_heads encoder_attention_heads decoder_attention_heads n_head attention_heads
        patch_size index_n_heads swa_num_attention_heads num_sliding_attention_heads""",
    8: """head_dim q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim mamba_head_dim rotary_dim
        qk_head_dim latent_size latent_channels latent_query_num swa_head_dim""",
    VOCABULARY: """vocab_size vocab_size_per_layer_input additional_vocab_size unpadded_vocab_size num_embeddings
        codebook_size num_embeds""",
    1: "num_experts_per_tok moe_k expand",
    64: "max_position_embeddings max_source_positions num_position_embeddings",
}
_SIZE_OF = {name: size for size, names in _SIZES.items() for name in names.split()}
_PER_LAYER = {"layer_types", "mlp_layer_types", "indexer_types", "layer_rope_theta", "no_rope_layers"}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@cache
def architectures() -> dict[str, dict[str, Any]]:
    """The entries of architectures.toml by model type."""
    text = Path(__file__).with_name("architectures.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def build(model_type: str, seed: int = 0) -> Any:
    """A random model in float32, on the CPU.

    Every parameter is drawn anew: fresh models gate images out or start from zeros, and leave some memory as it was.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = getattr(transformers, architectures()[model_type]["class"])(tiny_config(model_type)).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, SPREAD, generator=generator)
    return model


def tiny_config(model_type: str) -> Any:
    """The configuration of a tiny model of a type."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    values = config.to_dict()
    _shrink(values)
    for path, value in architectures()[model_type].get("set", {}).items():
        *parents, leaf = path.split(".")
        inner = values
        for parent in parents:
            inner = inner[parent]
        inner[leaf] = value
    return type(config).from_dict(values)


def layer_parameters(model: nn.Module, model_type: str) -> list[str]:
    """Names in memory of the projector's weight matrices, convolutions, fused attention weights and tables."""
    patterns = architectures()[model_type].get("layers", ["model.multi_modal_projector"])
    return [
        name
        for name, module, leaf in _matrices(model)
        if any(fnmatchcase(f"{module}.", f"{pattern}.*") or fnmatchcase(name, pattern) for pattern in patterns)
        and not (leaf == "weight" and _looks_up(model.get_submodule(module), module))
    ]


def _matrices(model: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Parameters that hold matrices: those of linear layers, convolutions and tables, and bare ones called weight."""
    for name, parameter in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        if parameter.ndim >= 2 and leaf.endswith("weight"):
            yield name, module, leaf


def _looks_up(module: nn.Module, name: str) -> bool:
    """Embeddings of positions; those of visual words and of audio codes are the projector itself."""
    return isinstance(module, nn.Embedding) and name.endswith("_embeddings")


def _shrink(values: dict[Any, Any], path: str = "") -> None:
    for name, value in values.items():
        if name == "per_layer_config":  # exceptions for layers that a tiny model does not have
            values[name] = {}
        elif isinstance(value, Mapping):
            _shrink(values[name], f"{path}.{name}")
        elif isinstance(value, int) and not isinstance(value, bool):
            values[name] = _tiny(str(name), value, path)
        elif name in _PER_LAYER and isinstance(value, list):
            values[name] = value[:2]


def _tiny(name: str, value: int, path: str) -> int:
    if name in ("hidden_size", "d_model", "hidden_dim") and re.search(r"vision|audio_config|encoder_config", path):
        return VISION_WIDTH
    if re.search(r"token_(id|index)$|_id$", name) and value >= 100:
        return _SPECIAL.get(name, 100 + value % 20)
    return _SIZE_OF.get(name, value)
