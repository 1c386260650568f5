"""The tiny tier's model: real transformers classes, a few million parameters, built from nothing."""

from __future__ import annotations

from itertools import product

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from eval import corpus, shapes
from eval.processing import llava_processor

PATCH = 8
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}user:"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %} {{ part['text'] }}{% endif %}{% endfor %}"
    "{% else %} assistant:{% for part in message['content'] %} {{ part['text'] }}{% endfor %}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} assistant:{% endif %}"
)


def build_processor() -> LlavaProcessor:
    """Byte-level BPE trained on the task's and the corpus's words, and a CLIP image processor without resizing."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        show_progress=False,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words = [
        *corpus.vocabulary(),
        *shapes.QUESTIONS.values(),
        *(
            f"a {scale} {color} {shape} at the {place} in the"
            for scale, color, shape, place in product(shapes.SCALES, shapes.COLORS, shapes.SHAPES, shapes.PLACES)
        ),
        "user: assistant: yes no",
    ]
    core.train_from_iterator([f" {line}" for line in words], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
    return llava_processor(tokenizer, shapes.SIZE, PATCH, CHAT_TEMPLATE)


def build_model(processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """A freshly initialised Llava: CLIP ViT (192 wide, 36 image tokens), Llama decoder (192 wide)."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=4,
            image_size=shapes.SIZE,
            patch_size=PATCH,
            projection_dim=192,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(shapes.SIZE // PATCH) ** 2,
        vision_feature_layer=-2,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model
