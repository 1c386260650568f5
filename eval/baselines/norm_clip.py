"""Norm clipping: image tokens that reach the projector longer than clean ones do are scaled back.

ProjLens (arXiv 2604.19083) reports that the shift towards the target grows with the input's norm; if triggers act
through the norm, clipping it should stop them. It cannot be folded into the weights, so it is a hook on the model:
projclean's own guard, on the suspect's weights as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from eval.baselines.inputs import BATCH, Inputs
from projclean.guard import Guard


@contextmanager
def clipped(inputs: Inputs, percentile: float) -> Iterator[None]:
    """While open, image tokens at the projector's first layer are no longer than the percentile of clean ones."""
    runner, limit = inputs.runner, clean_norm(inputs, percentile)
    inputs.notes.append(f"norms clipped to {limit:.2f}")
    own = runner.guard
    runner.set_guard(Guard({runner.layers[0]: limit}, percentile))
    try:
        yield
    finally:
        runner.set_guard(own)


def clean_norm(inputs: Inputs, percentile: float) -> float:
    """The percentile (0–100) of the norms of clean image tokens at the projector's first layer."""
    starts = range(0, len(inputs.images), BATCH)
    parts = [slice(start, start + BATCH) for start in starts]
    batches = [inputs.runner.prepare(inputs.images[part], inputs.questions[part]) for part in parts]
    return torch.quantile(inputs.runner.input_norms(batches), percentile / 100).item()
