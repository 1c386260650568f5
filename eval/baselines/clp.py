"""Channel Lipschitzness-based pruning (Zheng et al., arXiv 2208.03111, algorithm 1). Data-free.

A channel whose upper bound on the Lipschitz constant stands out in its layer, above mean + u·std, is pruned. The paper
prunes convolutions of classifiers, merged with their batch norms, at u = 3 on CIFAR-10. For the linear layers of a
projector a channel is a row of W, its bound the row's Euclidean norm, and there is no batch norm; OrthoPurify
(arXiv 2610.09941, appendix C.4) runs this adaptation at u = 1.
"""

from __future__ import annotations

import torch

from eval.baselines.inputs import Inputs
from projclean.methods import Weights


def clp(inputs: Inputs, u: float) -> Weights:
    """The suspect with every outlying channel's weights and bias set to zero."""
    result: Weights = {}
    pruned = []
    for layer in inputs.update.layers:
        keep = ~outlying(layer.suspect, u)
        pruned.append(f"{int((~keep).sum())}/{len(keep)}")
        bias = layer.suspect_bias
        result[layer.name] = (layer.suspect * keep[:, None], None if bias is None else bias * keep)
    inputs.notes.append("pruned channels " + ", ".join(pruned))
    return result


def outlying(weight: torch.Tensor, u: float) -> torch.Tensor:
    """Which rows of W (out, in) have a norm above mean + u·std of all rows' norms; (out,) of bool."""
    norms = weight.norm(dim=1)
    return norms > norms.mean() + u * norms.std()
