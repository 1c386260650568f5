"""A tiny base for adapters, and adapters written by hand."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

PROJECTOR = "multi_modal_projector"
TEXT = 48


ONE = f"model.{PROJECTOR}.linear_1"


def write_base(folder):
    """A tiny random Llava as transformers saves it."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                                       image_size=16, patch_size=8, projection_dim=32),
        text_config=LlamaConfig(vocab_size=64, hidden_size=TEXT, intermediate_size=80, num_hidden_layers=2,
                                num_attention_heads=2),
        image_token_index=3,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def by_hand(tmp_path, tensors, **config):
    folder = tmp_path / "a"
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def lora(module, out=TEXT, width=32, rank=2):
    prefix = f"base_model.model.{module}"
    return {f"{prefix}.lora_A.weight": torch.ones(rank, width), f"{prefix}.lora_B.weight": torch.ones(out, rank)}
