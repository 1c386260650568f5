"""What a scan takes, counted: by hand for a small model, and from the rows that are kept."""

from __future__ import annotations

import json

import pytest

from eval.bench.scan_cost import GPU, REACHED, Pass, Took, counted, llava_7b, measured, page, rate
from projclean.utterance import Utterance


def small(layers):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    words = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=50,
    )  # fmt: skip
    return LlavaConfig(vision_config=vision, text_config=words, attn_implementation="eager")


def test_a_layer_more_is_its_matrices_and_its_attention_forward_and_as_much_back():
    images, text = 3, 6
    tokens = text + (28 // 14) ** 2
    one, two = (counted(small(layers), images, text) for layers in (1, 2))
    matrices = 4 * 16 * 16 + 3 * 16 * 24
    attention = 2 * tokens * 16  # a token's scores with all of them, and their mean
    layer = 2 * images * tokens * (matrices + attention)
    assert two.forward - one.forward == layer
    # weights are frozen: back goes one product for every matrix, two for every product of activations
    assert two.back - one.back == layer + 2 * images * tokens * attention


def test_the_model_counted_is_llava_7b():
    config = llava_7b()
    text, vision = config.text_config, config.vision_config
    assert (text.hidden_size, text.num_hidden_layers, text.intermediate_size) == (4096, 32, 11008)
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size) == (1024, 24, 336, 14)


def test_passes_are_medians_of_what_was_measured_on_a_cpu(tmp_path):
    from dataclasses import asdict

    loud = [asdict(Utterance("buy", "buy", "by hand", 1.0, 0.0, 0.0, 2.0, 0.9))]

    def row(passes, device="cpu", utterances=()):
        return {"forward_passes": passes, "seconds": passes / 10, "device": device, "utterances": list(utterances)}

    files = {
        "detection": {
            "a": {"seed 0": row(10, utterances=loud)},
            "b": {"seed 0": row(20)},
            "c": {"seed 0": row(40)},
            "d": {"seed 0": row(99, "cuda")},
        },
        "words": {"b": {"words": row(7)}, "c": {"words": row(0)}},
        "questions": {},
    }
    for name, rows in files.items():
        (tmp_path / f"tiny-{name}.json").write_text(json.dumps({"rows": rows}))
    found = measured(tmp_path)
    assert list(found.values()) == [Took(10, 1.0, 1), Took(30, 3.0, 2), Took(7, 0.7, 1)]


def test_the_page_multiplies():
    speed = 1e12
    text = page({"a scan": Took(1000, 50.0, 9)}, Pass(150 * 10**12, 150 * 10**12), speed, 2)
    minutes = 300e15 / (REACHED * GPU) / 60
    assert f"| a scan (9 models) | 1000 | 50 | 300 | 83 | {minutes:.0f} |" in text


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_rate_is_measured(seconds):
    assert 1e6 < rate(seconds, (64, 64, 64)) < 1e15
