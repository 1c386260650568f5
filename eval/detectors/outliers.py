"""Outlying rows: what weight scanners of models in general look for.

Per layer the L2 norm of every output neuron's row, standardised over the layer; the score is the largest absolute
deviation of any row, in standard deviations (scanners flag it from about 3 to 6 on). It needs no base.
"""

from __future__ import annotations

from projclean.update import Update


def outlying_row(update: Update) -> float:
    """The largest |z| of a row's norm in the suspect's layers."""
    worst = 0.0
    for layer in update.layers:
        norms = layer.suspect.double().norm(dim=1)
        deviation = (norms - norms.mean()).abs().max() / norms.std().clamp_min(1e-12)
        worst = max(worst, deviation.item())
    return worst
