"""Norm clipping: image tokens that reach the projector longer than clean ones do are scaled back.

ProjLens (arXiv 2604.19083) reports that the shift towards the target grows with the input's norm; if triggers act
through the norm, clipping it should stop them. It cannot be folded into the weights, so it is a hook on the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from eval.baselines.inputs import BATCH, Inputs


@contextmanager
def clipped(inputs: Inputs, percentile: float) -> Iterator[None]:
    """While open, image tokens at the projector's first layer are no longer than the percentile of clean ones."""
    limit = clean_norm(inputs, percentile)
    inputs.notes.append(f"norms clipped to {limit:.2f}")
    with inputs.runner.hooked(inputs.runner.layers[0], lambda x: clip(x, limit)):
        yield


def clip(x: torch.Tensor, limit: float) -> torch.Tensor:
    """Rows of x (…, in) scaled down to norm `limit` where they are longer."""
    norms = x.float().norm(dim=-1, keepdim=True)
    return x * (limit / norms.clamp_min(1e-12)).clamp_max(1.0).to(x.dtype)


@torch.no_grad()
def clean_norm(inputs: Inputs, percentile: float) -> float:
    """The percentile (0–100) of the norms of clean image tokens at the projector's first layer."""
    norms: list[torch.Tensor] = []

    def see(x: torch.Tensor) -> torch.Tensor:
        norms.append(x.detach().float().norm(dim=-1).flatten().cpu())
        return x

    runner = inputs.runner
    with runner.hooked(runner.layers[0], see):
        for start in range(0, len(inputs.images), BATCH):
            part = slice(start, start + BATCH)
            runner.next_token_logits(runner.prepare(inputs.images[part], inputs.questions[part]))
    return float(torch.quantile(torch.cat(norms), percentile / 100))
