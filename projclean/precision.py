"""Running a model in bfloat16 while it is probed or trained, where that is faster.

Models that are not large are loaded in float32, in which evaluation sets are answered. Where gradients are wanted they
can run in bfloat16: on processors with products of that type more than twice as fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from projclean.model import Runner

WORTH_IT = 50_000_000  # parameters; of a smaller model's time matrix products take too little


@contextmanager
def quick(runner: Runner) -> Iterator[bool]:
    """While open, a float32 model of a size that makes it worth while runs in bfloat16, if the device is good at that;
    tells whether it does.

    Afterwards it has the parameters that it had before, to the last bit: the projector's too, whatever was set.
    """
    model = runner.model
    if runner.size < WORTH_IT or not _can_change(model) or not good_at_bfloat16(runner.device):
        yield False
        return
    kept = {name: parameter.data for name, parameter in model.named_parameters()}
    # On the CPU the fused attention kernel goes back slowly in bfloat16.
    fused = torch.device(runner.device).type == "cpu" and model.config._attn_implementation == "sdpa"
    head = model.get_output_embeddings()
    # A slice of the positions is not contiguous, and would be multiplied image by image with a copy of the matrix each.
    handle = head.register_forward_pre_hook(_contiguous) if head is not None else None
    try:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        if fused:
            model.set_attn_implementation("eager")
        yield True
    finally:
        if fused:
            model.set_attn_implementation("sdpa")
        for name, parameter in model.named_parameters():
            parameter.data = kept[name]
        if handle is not None:
            handle.remove()


def _can_change(model: torch.nn.Module) -> bool:
    """Whether all that is computed with is float32 parameters; rotary frequencies may stay as they are."""
    mixed = any(value.is_floating_point() and "inv_freq" not in name for name, value in model.named_buffers())
    return not mixed and {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def good_at_bfloat16(device: str) -> bool:
    """Whether a device has instructions for products in bfloat16; without them they take up to sixty times as long as
    in float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _contiguous(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.contiguous() if isinstance(value, torch.Tensor) else value for value in inputs)
