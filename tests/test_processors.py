"""Processors of transformers, each of which wants its images, and gives its inputs, in its own way."""

from __future__ import annotations

import pytest
import transformers
from PIL import Image

from eval.architectures import build
from projclean.loading import processed
from projclean.model import Runner
from tests.miniature import BASE

IMAGES = [Image.new("RGB", (48, 48), color) for color in ("red", "blue")]


@pytest.fixture
def tokenizer():
    """The shipped tokenizer with Gemma's special tokens."""
    names = {f"{name}_token": f"<{name}>" for name in ("image", "boi", "eoi", "audio", "boa", "eoa")}
    return transformers.AutoTokenizer.from_pretrained(BASE, extra_special_tokens=names)


class WithoutVideos(transformers.Gemma4Processor):
    """Its processor of videos needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name != "video_processor":
            super().check_argument_for_proper_class(argument_name, argument)


@pytest.mark.parametrize("kind", ["llava", "gemma3", "gemma4"])
def test_every_text_gets_its_own_image_however_images_are_wanted(kind, tokenizer):
    if kind == "llava":
        processor, text = transformers.AutoProcessor.from_pretrained(BASE), "<image>What is it?"
    elif kind == "gemma3":
        images = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
        processor, text = transformers.Gemma3Processor(images, tokenizer, image_seq_length=4), "<boi>What is it?"
    else:
        hearing, images = transformers.Gemma4AudioFeatureExtractor(), transformers.Gemma4ImageProcessorPil()
        processor, text = WithoutVideos(hearing, images, tokenizer, None), "<image>What is it?"
    both = processed(processor, IMAGES, [text] * 2)
    assert both["input_ids"].shape[0] == 2
    for row, image in enumerate(IMAGES):
        alone = processed(processor, [image], [text])
        assert both["pixel_values"][row].equal(alone["pixel_values"][0])
        assert both["input_ids"][row].equal(alone["input_ids"][0])


def test_paligemma_is_asked_without_the_labels_that_its_processor_makes(tokenizer):
    model = build("paligemma")
    images = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(images, tokenizer)
    model.config.image_token_id = processor.image_token_id
    model.resize_token_embeddings(len(tokenizer))
    assert "labels" in processed(processor, IMAGES, ["<image>What is it?"] * 2)
    runner = Runner.around(model, processor)
    batch = runner.prepare(IMAGES, "What is it?")
    assert "labels" not in batch.inputs
    assert runner.next_token_logits(batch).shape == (2, len(tokenizer))
