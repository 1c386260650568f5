"""Restore the base: throw the fine-tune away. The floor of every table: no attack, and no gain."""

from __future__ import annotations

from eval.baselines.inputs import Inputs
from projclean.methods import Weights, base_weights


def restore(inputs: Inputs) -> Weights:
    """The base's projector."""
    return base_weights(inputs.update)
