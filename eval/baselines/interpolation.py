"""Interpolation between base and suspect (WiSE-FT, Wortsman et al., arXiv 2109.01903, there for robustness to
distribution shift). It needs no data and knows nothing of backdoors, so a defence that it beats is not worth having.
"""

from __future__ import annotations

from eval.baselines.inputs import Inputs
from projclean import methods

#: The whole sweep is always shown: which share is best cannot be known without the trigger.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def interpolate(inputs: Inputs, share: float) -> methods.Weights:
    """W_base + share·ΔW, biases too: 0 is the base, 1 the suspect."""
    return methods.interpolate(inputs.update, share)
