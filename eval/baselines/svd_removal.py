"""Plain SVD removal: take away the update's own dominant directions, as if low rank alone marked the backdoor
(the low-rank finding of ProjLens, arXiv 2604.19083, taken at its word)."""

from __future__ import annotations

from eval.baselines.inputs import Inputs
from projclean.methods import Weights
from projclean.subspace import project_out, truncated_svd


def remove_dominant(inputs: Inputs, k: int) -> Weights:
    """W_suspect − ΔW·V·Vᵀ per layer, V (in, k) the top right singular directions of ΔW; biases stay."""
    result: Weights = {}
    for layer in inputs.update.layers:
        directions = truncated_svd(layer.delta, k)[2]
        result[layer.name] = (layer.base + project_out(layer.delta, directions), layer.suspect_bias)
    return result
