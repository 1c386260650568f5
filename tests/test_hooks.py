"""Layer inputs: seen as the rows that the matrix multiplies, and moved there, in every kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from eval.architectures import build
from projclean import layout
from projclean.hooks import hook
from projclean.model import Prepared, Runner
from projclean.projectors import LayerSpec

MODULES = {
    "linear": (nn.Linear(5, 4), (2, 3, 5)),
    "conv1d": (nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 9)),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 3, 7, 6)),
    "conv2d-same": (nn.Conv2d(3, 4, 3, padding="same", bias=False), (2, 3, 5, 6)),
    "conv2d-reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 5, 6)),
    "conv3d": (nn.Conv3d(2, 4, (2, 2, 3), stride=(2, 2, 1)), (2, 2, 4, 4, 5)),
}


def spec_of(name: str, weight: torch.Tensor, **changes: Any) -> LayerSpec:
    return LayerSpec(name, f"{name}.weight", f"{name}.bias", (weight.shape[0], weight[0].numel()), **changes)


@pytest.mark.parametrize("kind", MODULES)
def test_rows_are_what_the_matrix_multiplies_and_moves_reach_the_output(kind):
    module, shape = MODULES[kind]
    model, x = nn.ModuleDict({"layer": module}), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    spec = spec_of("layer", module.weight)
    weight = layout.matrix(module.weight.detach(), spec)
    seen: list[torch.Tensor] = []
    handle = hook(model, spec, lambda rows: seen.append(rows) or rows)
    plain = module(x).detach()
    handle.remove()
    bias = 0 if module.bias is None else module.bias.detach()
    flat = plain if kind == "linear" else plain.flatten(2).transpose(1, 2)
    assert seen[0].shape[-1] == weight.shape[1]
    assert torch.allclose(seen[0] @ weight.T + bias, flat, atol=1e-5)
    move = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(1))
    handle = hook(model, spec, lambda rows: rows + move)
    moved = module(x).detach()
    handle.remove()
    shift = (weight @ move).reshape(-1, *[1] * (0 if kind == "linear" else plain.ndim - 2))
    assert torch.allclose(moved, plain + shift, atol=1e-4)
    assert torch.equal(module(x), plain)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("by_name", [True, False])
def test_each_input_of_fused_attention_is_its_own(batch_first, by_name):
    attention = nn.MultiheadAttention(6, 2, batch_first=batch_first)
    model = nn.ModuleDict({"attention": attention})
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, length, 6, generator=generator) for length in (3, 5, 5)]  # images first
    move = torch.randn(6, generator=generator)

    def run(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        arranged = [x if batch_first else x.transpose(0, 1) for x in (query, key, value)]
        if by_name:
            return attention(arranged[0], value=arranged[2], key=arranged[1])[0].detach()
        return attention(*arranged)[0].detach()

    for number, part in enumerate(("query", "key", "value")):
        rows = (6 * number, 6 * number + 6)
        spec = LayerSpec(part, "attention.in_proj_weight", "attention.in_proj_bias", (6, 6), rows=rows, argument=number)
        expected = run(*(x + move if n == number else x for n, x in enumerate(inputs)))
        seen: list[torch.Tensor] = []
        handle = hook(model, spec, lambda x, seen=seen: seen.append(x) or x + move)
        assert torch.allclose(run(*inputs), expected, atol=1e-5)
        handle.remove()
        assert torch.equal(seen[0], inputs[number])


def test_what_cannot_be_watched_is_left_alone():
    model = nn.ModuleDict({"table": nn.Embedding(7, 4), "grouped": nn.Conv2d(4, 4, 3, groups=2)})
    calls: list[torch.Tensor] = []
    for name, x in (("table", torch.tensor([1, 2])), ("grouped", torch.randn(1, 4, 5, 5))):
        expected = model[name](x)
        handle = hook(model, spec_of(name, model[name].weight), lambda rows: calls.append(rows) or rows + 1)
        assert torch.equal(model[name](x), expected)
        handle.remove()
    assert not calls


def test_layout_puts_a_matrix_back_where_it_lay():
    generator = torch.Generator().manual_seed(0)
    for stored, spec in [
        (torch.randn(4, 3, 2, 2, generator=generator), LayerSpec("c", "c.weight", None, (4, 12))),
        (torch.randn(4, 3, generator=generator), LayerSpec("t", "t", None, (3, 4), transposed=True)),
        (torch.randn(9, 3, generator=generator), LayerSpec("f", "f", None, (3, 3), rows=(3, 6))),
    ]:
        matrix = layout.matrix(stored, spec)
        assert matrix.shape == spec.shape
        changed = layout.with_matrix(stored, spec, matrix + 1)
        assert changed.shape == stored.shape
        assert torch.equal(layout.matrix(changed, spec), matrix + 1)
        assert (changed != stored).sum() == matrix.numel()
        assert torch.equal(layout.with_matrix(stored, spec, matrix), stored)


# -- whole models -------------------------------------------------------------------------------------------------

IMAGES = 2
Inputs = Callable[[Any], dict[str, torch.Tensor]]


def pixels(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def text(model: Any, tokens: int) -> dict[str, torch.Tensor]:
    token = getattr(model.config, "image_token_id", None) or model.config.image_token_index
    ids = torch.tensor([[1, *[token] * tokens, 5, 6, 7]] * IMAGES)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def square(tokens: int, **more: torch.Tensor) -> Inputs:
    """One square image a row, `tokens` image tokens each."""
    return lambda model: {**text(model, tokens), "pixel_values": pixels(IMAGES, 3, 16, 16), **more}


def tiles(tokens: int) -> Inputs:
    return lambda model: {**text(model, tokens), "pixel_values": pixels(IMAGES, 1, 3, 16, 16)}


def patches(model: Any) -> dict[str, torch.Tensor]:
    """Sixteen patches an image, flattened: two frames of 3×4×4 pixels each."""
    inputs = text(model, 4)
    token = model.config.image_token_id
    return {
        **inputs,
        "pixel_values": pixels(IMAGES * 16, 96),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * IMAGES),
        "mm_token_type_ids": (inputs["input_ids"] == token).int(),
    }


def typed(tokens: int) -> Inputs:
    def make(model: Any) -> dict[str, torch.Tensor]:
        inputs = square(tokens)(model)
        return {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}

    return make


def crossed(model: Any) -> dict[str, torch.Tensor]:
    """One tile an image, which the text reads through cross-attention."""
    inputs = text(model, 1)
    return {
        **inputs,
        "pixel_values": pixels(IMAGES, 1, 1, 3, 16, 16),
        "aspect_ratio_ids": torch.ones(IMAGES, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(IMAGES, 1, 1, dtype=torch.long),
        "cross_attention_mask": torch.ones(IMAGES, inputs["input_ids"].shape[1], 1, 1, dtype=torch.long),
    }


RUN: dict[str, Inputs] = {
    "llava": square(16),
    "paligemma": typed(16),
    "gemma3": typed(4),
    "internvl": square(4),
    "mistral3": square(4, image_sizes=torch.tensor([[16, 16]] * IMAGES)),
    "qwen2_5_vl": patches,
    "qwen3_vl": patches,
    "glm4v": patches,
    "idefics2": tiles(4),
    "idefics3": tiles(4),
    "smolvlm": tiles(4),
    "blip-2": square(32),
    "mllama": crossed,
    "aria": square(4),
    "got_ocr2": square(1),
    "ovis2": square(16),
}
UNSEEN = {"aria": {"multi_modal_projector.cross_attn.multihead_attn.out_proj"}}  # torch never calls that module


def _first_moved(x, move):
    """The first row moved: moving all alike does nothing to the keys of an attention."""
    rows = x.reshape(-1, x.shape[-1])
    return torch.cat([rows[:1] + move, rows[1:]]).reshape(x.shape)


@pytest.mark.parametrize("model_type", RUN)
def test_every_layer_of_a_running_model_is_seen(model_type):
    model = build(model_type)
    runner = Runner.around(model)
    batch = Prepared(RUN[model_type](model), IMAGES)
    widths = {name: weight.shape[1] for name, (weight, _) in runner.weights().items()}
    moments = runner.moments([batch])
    assert {name: known.total.shape[0] for name, known in moments.items()} == {
        name: width for name, width in widths.items() if name not in UNSEEN.get(model_type, ())
    }
    assert all(known.count >= IMAGES for known in moments.values())
    first = runner.layers[0]
    plain = runner.next_token_logits(batch)
    move = 10 * moments[first].second.diagonal().sqrt()
    with runner.hooked(first, lambda x: _first_moved(x, move.to(x))):
        assert not torch.allclose(runner.next_token_logits(batch), plain, atol=1e-4)
    before = runner.weights()
    runner.set_weights({name: (weight + 1, bias) for name, (weight, bias) in before.items()})
    assert all(torch.allclose(runner.weights()[name][0], weight + 1) for name, (weight, _) in before.items())
    runner.set_weights(before)
    assert torch.allclose(runner.next_token_logits(batch), plain, atol=1e-4)
