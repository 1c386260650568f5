"""Where the update moves image tokens, whether to the same side for every image, and how far against their norm.

With y_t the base's and y′_t the suspect's output for token t, the shift is Δ_t = y′_t − y_t. An image's shift is the
mean of its tokens'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

SCATTER = 600  # tokens kept for a plot


class Shifts:
    """Running record of one set of images: a mean shift and six sums an image, and a sample of tokens."""

    def __init__(self) -> None:
        self._means: list[torch.Tensor] = []
        self._bases: list[torch.Tensor] = []
        self._sums: list[torch.Tensor] = []
        self._pairs: list[torch.Tensor] = []

    def add(self, base: torch.Tensor, suspect: torch.Tensor) -> None:
        """Record outputs (images, tokens, d) of base and suspect for the same images."""
        delta = suspect - base
        self._means.append(delta.mean(1))
        self._bases.append(base.mean(1))
        x, y = base.norm(dim=-1).double(), delta.norm(dim=-1).double()
        self._sums.append(torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1).sum(1))
        self._pairs.append(torch.stack([x, y], -1).reshape(-1, 2))

    @property
    def per_image(self) -> torch.Tensor:
        """(images, d) each image's mean shift."""
        return torch.cat(self._means)

    @property
    def base_per_image(self) -> torch.Tensor:
        """(images, d) each image's mean base output."""
        return torch.cat(self._bases)

    @property
    def sums(self) -> np.ndarray:
        """(images, 6) sums over tokens of 1, x, y, x², xy, y²; x = ‖y_t‖ of the base, y = ‖Δ_t‖."""
        return torch.cat(self._sums).numpy()

    @property
    def pairs(self) -> np.ndarray:
        """(tokens, 2) of x and y: an even sample of at most 600 tokens."""
        every = torch.cat(self._pairs)
        return every[:: max(1, -(-len(every) // SCATTER))].numpy()


@dataclass(frozen=True)
class Line:
    """‖Δ_t‖ against ‖y_t‖ over tokens: least squares and Pearson's r, with 95 % bootstrap intervals over images."""

    slope: float
    slope_low: float
    slope_high: float
    intercept: float
    r: float
    r_low: float
    r_high: float
    images: int
    tokens: int


@dataclass(frozen=True)
class Shift:
    """One set of images through base and suspect.

    top1, top5   share of Σᵢ‖sᵢ‖² along the first one and five right singular directions of the images' shifts sᵢ
    mean_cosine  mean cosine between the shifts of two images
    bias_cosine  cosine between the shared direction and the change of the last layer's bias, a shift that every
                 token gets whatever the image (None without a bias)
    norm         mean ‖y_t‖ of the base's output tokens; magnitude the mean ‖Δ_t‖
    """

    name: str
    images: int
    top1: float
    top5: float
    mean_cosine: float
    bias_cosine: float | None
    norm: float
    magnitude: float
    line: Line
    pairs: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Alignment:
    """Cosine between the shared directions of two sets of images."""

    first: str
    second: str
    cosine: float


def shared_direction(shifts: torch.Tensor) -> torch.Tensor:
    """(d,) unit vector: first right singular direction of (images, d) shifts, on the side of their mean."""
    _, _, vh = torch.linalg.svd(shifts.float(), full_matrices=False)
    return vh[0] if (shifts.mean(0) @ vh[0]).item() >= 0 else -vh[0]


def measure(name: str, shifts: Shifts, bias_change: torch.Tensor | None, seed: int = 0) -> Shift:
    """Sum up a record; `bias_change` is the last layer's Δb (d,)."""
    means = shifts.per_image.float()
    energy = torch.linalg.svdvals(means).square()
    total = max(energy.sum().item(), 1e-30)
    units = torch.nn.functional.normalize(means, dim=1)
    n = len(means)
    cosine = (units.sum(0).square().sum().item() - units.square().sum().item()) / (n * (n - 1)) if n > 1 else 1.0
    sums = shifts.sums
    tokens, x, y = sums[:, :3].sum(0)
    bias_cosine = None
    if bias_change is not None:
        bias_cosine = torch.nn.functional.cosine_similarity(shared_direction(means), bias_change, dim=0).item()
    return Shift(
        name,
        n,
        energy[0].item() / total,
        energy[:5].sum().item() / total,
        cosine,
        bias_cosine,
        float(x / tokens),
        float(y / tokens),
        line(sums, seed),
        tuple((float(a), float(b)) for a, b in shifts.pairs),
    )


def align(sets: dict[str, Shifts]) -> tuple[Alignment, ...]:
    """Cosines between the shared directions of every two sets, in order."""
    names = list(sets)
    directions = {name: shared_direction(sets[name].per_image) for name in names}
    return tuple(
        Alignment(first, second, (directions[first] @ directions[second]).item())
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    )


def line(sums: np.ndarray, seed: int = 0, rounds: int = 1000) -> Line:
    """Fit y against x from sums per image (images, 6); tokens of an image hang together, so images are resampled."""
    slope, intercept, r = _fit(sums.sum(0))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), rounds) @ sums
    slopes, _, rs = _fit(drawn.T)
    (slope_low, slope_high), (r_low, r_high) = (np.quantile(part, [0.025, 0.975]) for part in (slopes, rs))
    return Line(
        float(slope), float(slope_low), float(slope_high), float(intercept), float(r), float(r_low), float(r_high),
        len(sums), int(sums[:, 0].sum()),
    )  # fmt: skip


def _fit(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope, intercept and r from sums (6, …)."""
    n, x, y, xx, xy, yy = sums
    var_x, var_y = np.maximum(xx / n - (x / n) ** 2, 1e-12), np.maximum(yy / n - (y / n) ** 2, 1e-12)
    covariance = xy / n - x * y / n**2
    slope = covariance / var_x
    return slope, (y - slope * x) / n, covariance / np.sqrt(var_x * var_y)
