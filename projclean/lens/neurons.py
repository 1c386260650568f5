"""Do some hidden neurons fire for a trigger? Activation frequencies of the projector's hidden layer, compared.

A neuron is one column of the last matrix's input, that is after the nonlinearity. It is active on a token where its
value is above zero (the sign of GELU, SiLU and ReLU is that of their argument), and on an image where it is active
on at least one token, which is what a neuron that answers to a small patch would do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SILENT, ACTIVE = 0.05, 0.5  # shares of images: at most, at least


class Firing:
    """Running counts of how often each neuron is active; features need not be kept."""

    def __init__(self) -> None:
        self.tokens = self.images = 0
        self.on_tokens = self.on_images = torch.zeros(0)

    def add(self, hidden: torch.Tensor) -> None:
        """Count hidden activations (images, tokens, neurons)."""
        if not len(hidden):
            return
        active = hidden > 0
        if not self.images:
            self.on_tokens = self.on_images = torch.zeros(hidden.shape[-1])
        self.on_tokens = self.on_tokens + active.sum((0, 1))
        self.on_images = self.on_images + active.any(1).sum(0)
        self.tokens += active.shape[0] * active.shape[1]
        self.images += active.shape[0]

    @property
    def of_tokens(self) -> torch.Tensor:
        """(neurons,) share of tokens on which each is active."""
        return self.on_tokens / max(self.tokens, 1)

    @property
    def of_images(self) -> torch.Tensor:
        """(neurons,) share of images on which each is active somewhere."""
        return self.on_images / max(self.images, 1)


@dataclass(frozen=True)
class Gap:
    """One neuron's frequencies on the two sides of a contrast."""

    neuron: int
    tokens_before: float
    tokens_after: float
    images_before: float
    images_after: float


@dataclass(frozen=True)
class Contrast:
    """Every neuron's frequency before and after: `before` and `after` are shares of tokens, one a neuron.

    silent_to_active  neurons active on at most 5 % of images before and on at least 50 % after
    silent_before     how many are that silent before: how many could have woken
    largest_gap       the largest rise or fall of a share of tokens; mean_gap the mean size
    """

    name: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    silent_before: int
    silent_to_active: tuple[int, ...]
    largest_gap: float
    mean_gap: float
    gaps: tuple[Gap, ...]


def contrast(name: str, before: Firing, after: Firing, most: int = 10) -> Contrast:
    """Compare two counts of the same neurons; `gaps` are the `most` largest by share of tokens."""
    rise = after.of_tokens - before.of_tokens
    silent = before.of_images <= SILENT
    woken = silent & (after.of_images >= ACTIVE)
    rates = [side.tolist() for side in (before.of_tokens, after.of_tokens, before.of_images, after.of_images)]
    largest = rise.abs().argsort(descending=True, stable=True)[:most].tolist()
    return Contrast(
        name,
        tuple(rates[0]),
        tuple(rates[1]),
        int(silent.sum()),
        tuple(woken.nonzero().flatten().tolist()),
        rise.abs().max().item(),
        rise.abs().mean().item(),
        tuple(Gap(number, *(rate[number] for rate in rates)) for number in largest),
    )
