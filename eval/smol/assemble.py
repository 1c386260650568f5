"""Vision tower, projector and language model put together: an ordinary LLaVA directory in two shards, the projector's
tensors in one of their own, so that suspects share the other."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eval import photos
from eval.layout import INDEX
from eval.processing import llava_processor
from eval.smol.language import CHAT_TEMPLATE, IMAGE_TOKEN
from eval.smol.vision import PATCH
from eval.train import PREFIX

TOKENS = (photos.SIZE // PATCH) ** 2
REST, PROJECTOR = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def build_processor(tokenizer: Any) -> Any:
    """Images of 32×32 pixels, SmolLM2's chat form."""
    return llava_processor(tokenizer, photos.SIZE, PATCH, CHAT_TEMPLATE, cls=False)


def build_model(language: Any, tokenizer: Any, tower: Any, projector: Mapping[str, torch.Tensor] | None) -> Any:
    """LlavaForConditionalGeneration in bfloat16; a new projector is drawn at random (seed 0)."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.tie_weights()
    if projector is not None:
        named = {name.removeprefix(PREFIX): tensor for name, tensor in projector.items()}
        model.model.multi_modal_projector.load_state_dict(named)
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    generation.bos_token_id = tokenizer.bos_token_id
    return model.bfloat16().eval()


def save(model: Any, processor: Any, out: Path) -> None:
    """Write the directory; `out` is replaced."""
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        whole = Path(folder) / "whole"
        model.save_pretrained(whole, max_shard_size="100GB")
        processor.save_pretrained(whole)
        tensors = load_file(whole / "model.safetensors")
        own = {name: tensor for name, tensor in tensors.items() if PREFIX in name}
        rest = {name: tensor for name, tensor in tensors.items() if name not in own}
        (whole / "model.safetensors").unlink()
        places: dict[str, str] = {}
        for shard, part in ((REST, rest), (PROJECTOR, own)):
            save_file(part, whole / shard, {"format": "pt"})
            places |= dict.fromkeys(part, shard)
        size = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (whole / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        whole.replace(out)
