"""Random-direction removal: the control of every method that removes directions. Whether *which* directions are
removed matters is what a method must show against it (so does OrthoPurify, arXiv 2610.09941, appendix H)."""

from __future__ import annotations

import torch

from eval.baselines.inputs import Inputs
from projclean.methods import Weights
from projclean.subspace import project_out


def remove_random(inputs: Inputs, k: int, seed: int) -> Weights:
    """W_suspect − ΔW·R·Rᵀ per layer, R (in, k) orthonormal and uniformly random; biases stay."""
    generator = torch.Generator().manual_seed(seed)
    result: Weights = {}
    for layer in inputs.update.layers:
        width = layer.base.shape[1]
        directions = torch.linalg.qr(torch.randn(width, min(k, width), generator=generator))[0]
        result[layer.name] = (layer.base + project_out(layer.delta, directions), layer.suspect_bias)
    return result
