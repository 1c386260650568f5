"""Spectral statistics and logistic regression (Puertolas Merenciano et al., "Weight space Detection of Backdoors in
LoRA Adapters", arXiv 2602.15195).

Of every layer's update: the leading singular value, the Frobenius norm, the energy concentration (the share of the
leading singular value's square), the spectral entropy (of the squared singular values as a distribution) and the
kurtosis of the entries. A logistic regression over them, standardised, tells benign from poisoned; it is fitted on the
calibration half, where the paper fits on adapters of known making. The paper looks at attention matrices, this at the
projector's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from projclean.update import Update

STATISTICS = ("leading", "norm", "concentration", "entropy", "kurtosis")
RIDGE = 1.0  # on standardised coefficients, as scikit-learn's default C = 1


def statistics(update: Update) -> list[float]:
    """Five numbers a layer, in the order of `STATISTICS`."""
    found: list[float] = []
    for layer in update.layers:
        values = torch.linalg.svdvals(layer.delta.double())
        energy = values.square().sum()
        if energy == 0:
            found += [0.0] * len(STATISTICS)
            continue
        share = values.square() / energy
        entries = layer.delta.double() - layer.delta.double().mean()
        kurtosis = entries.pow(4).mean() / entries.square().mean().square()
        entropy = -(share * (share + 1e-300).log()).sum()
        found += [values[0].item(), energy.sqrt().item(), share[0].item(), entropy.item(), kurtosis.item()]
    return found


class LogisticRegression:
    """Logistic regression with a ridge penalty on standardised features (n, k)."""

    def __init__(self, features: Sequence[Sequence[float]], poisoned: Sequence[bool]) -> None:
        from scipy.optimize import minimize

        x, y = np.asarray(features, float), np.where(np.asarray(poisoned), 1.0, -1.0)
        self.mean, self.scale = x.mean(0), x.std(0) + 1e-12
        z = (x - self.mean) / self.scale

        def loss(beta: np.ndarray) -> tuple[float, np.ndarray]:
            margin = y * (z @ beta[1:] + beta[0])
            slope = -y / (1 + np.exp(np.clip(margin, -500, 500)))
            value = np.logaddexp(0, -margin).sum() + 0.5 * RIDGE * (beta[1:] ** 2).sum()
            return value, np.concatenate([[slope.sum()], z.T @ slope + RIDGE * beta[1:]])

        self.beta = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x

    def scores(self, features: Sequence[Sequence[float]]) -> list[float]:
        """Log-odds of being poisoned."""
        z = (np.asarray(features, float) - self.mean) / self.scale
        return [float(value) for value in z @ self.beta[1:] + self.beta[0]]
