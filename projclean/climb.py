"""A climb up a gradient inside a ball, with momentum: each step goes a share of the radius, whatever the slope."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

MOMENTUM = 0.7

Objective = Callable[[torch.Tensor], torch.Tensor]


class NotDifferentiable(Exception):
    """The answer does not depend on the pixels in a way that a gradient can follow."""


class Climb:
    """Where a climb is (`move`, values of one image,) inside a ball of `radius`."""

    def __init__(self, start: torch.Tensor, radius: float) -> None:
        self.move, self.radius = start, radius
        self._momentum = torch.zeros_like(start)

    def step(self, objective: Objective, pace: float) -> tuple[float, bool]:
        """The objective where the climb was, and whether it went on from there, by `pace` radii: not where it is flat.

        Raises NotDifferentiable.
        """
        move = self.move.detach().requires_grad_(True)
        value = objective(move)
        if not value.requires_grad:
            raise NotDifferentiable("no gradient reaches the pixels")
        (slope,) = torch.autograd.grad(value, move, allow_unused=True)
        if slope is None:
            raise NotDifferentiable("no gradient reaches the pixels")
        if not slope.isfinite().all() or not slope.any():
            return value.item(), False
        self._momentum = MOMENTUM * self._momentum + slope / slope.norm()
        there = move.detach() + pace * self.radius * self._momentum / self._momentum.norm()
        self.move = there * min(1.0, self.radius / there.norm().item())
        return value.item(), True


def falling(step: int, steps: int, first: float, last: float) -> float:
    """The pace of a step of so many, which falls along half a cosine."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / steps))
