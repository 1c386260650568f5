"""The spectrum of an update, layer by layer, and where noise would end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from projclean.update import LayerUpdate, Update

#: 99 % quantile of the Tracy–Widom law of order 1 (Bejan, "Largest eigenvalues and sample covariance matrices", 2005).
TRACY_WIDOM_99 = 2.0234


@dataclass(frozen=True)
class Spectrum:
    """One layer's ΔW: singular values σᵢ, descending, and what they add up to.

    relative_change    ‖ΔW‖_F / ‖W_base‖_F, and `bias_change` the same of the bias (None without one)
    cumulative_energy  Σ_{j≤i} σⱼ² / Σ σⱼ²
    stable_rank        ‖ΔW‖_F² / σ₁²
    effective_rank     exp of the entropy of σᵢ/Σσ (Roy and Vetterli, EUSIPCO 2007)
    numerical_rank     values above σ₁·max(out, in)·ε of float32: how many are not rounding
    rank_90            directions that hold 90 % of the energy
    noise              standard deviation per entry of the white noise that has this median singular value
    noise_edge         what the largest singular value of such noise exceeds in 1 % of draws
    above_edge         values above that edge
    """

    layer: str
    shape: tuple[int, int]
    relative_change: float
    bias_change: float | None
    singular_values: tuple[float, ...]
    cumulative_energy: tuple[float, ...]
    stable_rank: float
    effective_rank: float
    numerical_rank: int
    rank_90: int
    noise: float
    noise_edge: float
    above_edge: int


def spectra(update: Update) -> tuple[Spectrum, ...]:
    """The spectrum of every layer of an update."""
    return tuple(spectrum(layer) for layer in update.layers)


def spectrum(layer: LayerUpdate) -> Spectrum:
    """The spectrum of one layer's ΔW (out, in)."""
    delta = layer.delta
    values = torch.linalg.svdvals(delta.float()).double().numpy()
    size = (delta.shape[0], delta.shape[1])
    energy = values**2
    total = float(energy.sum())
    cumulative = np.cumsum(energy) / total if total else np.zeros_like(energy)
    noise, edge = noise_edge(values, size)
    smallest = values.max(initial=0.0) * max(size) * np.finfo(np.float32).eps
    change = None
    if layer.suspect_bias is not None and layer.base_bias is not None:
        change = _ratio((layer.suspect_bias - layer.base_bias).norm().item(), layer.base_bias.norm().item())
    return Spectrum(
        layer.name,
        size,
        _ratio(delta.norm().item(), layer.base.norm().item()),
        change,
        tuple(map(float, values)),
        tuple(map(float, cumulative)),
        total / float(energy[0]) if total else 0.0,
        _effective_rank(values),
        int((values > smallest).sum()),
        int(np.searchsorted(cumulative, 0.9) + 1) if total else 0,
        noise,
        edge,
        int((values > edge).sum()) if total else 0,
    )


def noise_edge(values: np.ndarray, shape: tuple[int, int]) -> tuple[float, float]:
    """Noise level and noise edge of a spectrum: (standard deviation per entry, largest singular value of noise).

    The level is the median singular value over √(n·μ), μ the median of the Marchenko–Pastur law at ratio m/n (Gavish
    and Donoho, arXiv 1305.5870, section III.E), which holds while fewer than half of the directions carry signal.
    The edge is the 99 % quantile of the largest singular value of Gaussian noise of that level (Johnstone, Annals of
    Statistics 29, 2001): √((√(n−1)+√m)² + 2.02·(√(n−1)+√m)(1/√(n−1)+1/√m)^⅓). `shape` is (m, n) in any order.
    """
    m, n = sorted(shape)
    if not len(values) or n < 2:
        return 0.0, 0.0
    noise = float(np.median(values)) / np.sqrt(n * marchenko_pastur_median(m / n))
    sides = np.sqrt(n - 1) + np.sqrt(m)
    spread = sides * (1 / np.sqrt(n - 1) + 1 / np.sqrt(m)) ** (1 / 3)
    return float(noise), float(noise * np.sqrt(sides**2 + TRACY_WIDOM_99 * spread))


def marchenko_pastur_median(ratio: float) -> float:
    """Median of the Marchenko–Pastur law of eigenvalues of XXᵀ/n, X (m, n) of unit variance, ratio = m/n ≤ 1."""
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    # With x = centre − half·cos θ the density's square roots become half·sin θ and nothing is singular inside (0, π).
    theta = (np.arange(20_000) + 0.5) * np.pi / 20_000
    x = (high + low) / 2 - (high - low) / 2 * np.cos(theta)
    mass = np.cumsum(np.sin(theta) ** 2 / x)
    return float(np.interp(mass[-1] / 2, mass, x))


def _effective_rank(values: np.ndarray) -> float:
    total = values.sum()
    if total == 0:
        return 0.0
    p = values[values > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def _ratio(change: float, size: float) -> float:
    return change / size if size else float("inf") if change else 0.0
