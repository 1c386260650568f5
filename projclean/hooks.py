"""Watching and moving what goes into a projector layer of a live model.

A layer's input is seen as rows (…, in) of what its matrix multiplies: for a convolution, the unfolded patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from projclean.projectors import LayerSpec

Change = Callable[[torch.Tensor], torch.Tensor]
_INPUTS = ("query", "key", "value")  # of torch's attention, in order
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def hook(model: nn.Module, layer: LayerSpec, change: Change, first: bool = False) -> RemovableHandle:
    """Pass the layer's input (…, in) through `change` in every forward pass, until the handle is removed.

    Of several hooks on a layer each sees what the one before it made, in the order in which they were put there or,
    with `first`, before the others; on a convolution each sees the plain input, and their changes add up.
    Images come first in the rows. `change` is not called where there is no such input to see: the model never calls
    the layer's module (torch's own attention does so with its output projection), looks rows up by number instead of
    multiplying, or the layer is a grouped or dilated convolution.
    """
    if layer.input_from is not None:  # a bare parameter: its input is another module's output
        source = _module(model, layer.input_from)
        return source.register_forward_hook(lambda _, args, output: change(output), prepend=first)
    owner = model.get_submodule(layer.weight.rpartition(".")[0])
    if isinstance(owner, _CONVOLUTIONS):
        plain = owner.groups == 1 and all(step == 1 for step in owner.dilation)
        return owner.register_forward_hook(_convolution(change) if plain else lambda *_: None, prepend=first)
    return owner.register_forward_pre_hook(_argument(layer.argument, change), with_kwargs=True, prepend=first)


def _argument(position: int, change: Change) -> Callable[..., Any]:
    """Change one argument of a module's call."""

    def before(owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        attention = isinstance(owner, nn.MultiheadAttention)
        swapped = attention and not owner.batch_first  # tokens come before images
        given = position < len(args)
        name = _INPUTS[position] if attention else next(iter(kwargs), "")
        value = args[position] if given else kwargs.get(name)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return None
        value = change(value.transpose(0, 1)).transpose(0, 1) if swapped else change(value)
        if given:
            return (*args[:position], value, *args[position + 1 :]), kwargs
        return args, {**kwargs, name: value}

    return before


def _convolution(change: Change) -> Callable[..., Any]:
    """Patches overlap, so they cannot be moved at the input: W·(x + m) = W·x + W·m, and W·m is added to the output."""

    def after(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        patches = unfold(module, args[0])
        moved = change(patches)
        if moved is patches:
            return output
        weight = module.get_parameter("weight").flatten(1)
        added = (moved - patches).to(weight) @ weight.T
        return output + added.transpose(-1, -2).reshape(output.shape)

    return after


def unfold(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The patches (n, positions, in·kernel) of x (n, in, …) that a plain convolution multiplies by its matrix."""
    assert isinstance(module, _CONVOLUTIONS)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = nn.functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, step) in enumerate(zip(module.kernel_size, module.stride, strict=True), 2):
        x = x.unfold(axis, size, step)
    count = len(module.kernel_size)
    x = x.permute(0, *range(2, 2 + count), 1, *range(2 + count, 2 + 2 * count))
    return x.reshape(x.shape[0], -1, module.get_parameter("weight")[0].numel())


def _module(model: nn.Module, canonical_name: str) -> nn.Module:
    return next(module for name, module in model.named_modules() if name.endswith(canonical_name))
