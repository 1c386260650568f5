"""Pure linear algebra on weight updates: spectra, angles, and the split of an update into what clean inputs
need and what they do not.

Shapes follow PyTorch: a layer computes `y = W x`, W and its update ΔW are (out, in), directions are columns in
the input space, (in, k). Everything is float32 and deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

FULL_SVD_LIMIT = 1024  # above this smaller side, a seeded randomised SVD


def truncated_svd(matrix: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k largest singular triplets: U (out, k), S (k,) descending, V (in, k).

    Exact up to a smaller side of 1024; above, randomised subspace iteration (Halko, Martinsson and Tropp,
    arXiv 0909.4061) with 16 extra directions, 6 iterations and a fixed seed.
    """
    matrix = matrix.float()
    if min(matrix.shape) <= FULL_SVD_LIMIT:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :k], s[:k], vh[:k].T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(matrix, q=min(k + 16, min(matrix.shape)), niter=6)
    return u[:, :k], s[:k], v[:, :k]


def stable_rank(matrix: torch.Tensor) -> float:
    """‖M‖_F² / ‖M‖₂² (0 for a zero matrix): how many directions carry the energy."""
    energy = matrix.float().square().sum().item()
    if energy == 0:
        return 0.0
    return energy / truncated_svd(matrix, 1)[1][0].square().item()


def principal_angles(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angles in degrees, ascending, between the column spaces of a (n, j) and b (n, k); min(j, k) of them."""
    qa, qb = torch.linalg.qr(a.double())[0], torch.linalg.qr(b.double())[0]
    return torch.rad2deg(torch.acos(torch.linalg.svdvals(qa.T @ qb).clamp(0, 1))).float()


@dataclass
class Moments:
    """Running first and second moments of a layer's inputs, so that features need not be kept."""

    count: int
    total: torch.Tensor  # (in,)
    outer: torch.Tensor  # (in, in), the sum of x xᵀ

    @classmethod
    def of_width(cls, width: int) -> Moments:
        return cls(0, torch.zeros(width), torch.zeros(width, width))

    def add(self, x: torch.Tensor) -> None:
        """Count rows of x (n, in)."""
        x = x.detach().float().cpu()
        self.count += x.shape[0]
        self.total += x.sum(0)
        self.outer += x.T @ x

    @property
    def second(self) -> torch.Tensor:
        """Σ = E[x xᵀ], (in, in)."""
        return self.outer / max(self.count, 1)

    @property
    def variance(self) -> float:
        """s²: the centred variance, averaged over coordinates."""
        mean = self.total / max(self.count, 1)
        return (self.second.diagonal() - mean.square()).clamp_min(0).mean().item()


def shrink(delta: torch.Tensor, moments: Moments, strength: float) -> torch.Tensor:
    """ΔW·Σ(Σ + λs²I)⁻¹: the part of an update that clean inputs need.

    It is the ridge solution of `min_D E‖(ΔW − D)x‖² + λs²‖D‖²`: the smaller λ, the more faithfully the update
    acts on clean inputs; as λ grows only what they need most is left. delta is (out, in), `strength` is λ > 0.
    """
    sigma = moments.second
    ridge = sigma + strength * max(moments.variance, 1e-12) * torch.eye(sigma.shape[0])
    # Σ and the ridge commute, so ΔW·Σ·ridge⁻¹ is the transpose of ridge⁻¹·Σ·ΔWᵀ.
    return torch.linalg.solve(ridge, sigma @ delta.float().T).T


def residual(delta: torch.Tensor, moments: Moments, strength: float) -> torch.Tensor:
    """ΔW − shrink(ΔW): the part of an update that clean inputs do not need, (out, in)."""
    return delta.float() - shrink(delta, moments, strength)


def suspicious_subspace(
    delta: torch.Tensor, moments: Moments | None, strength: float, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Top right singular directions V (in, k) of the residual, and its singular values (k,).

    Without moments (nothing is known of clean inputs) they are those of ΔW itself.
    """
    part = delta if moments is None else residual(delta, moments, strength)
    _, values, directions = truncated_svd(part, k)
    return directions, values


def project_out(delta: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """ΔW − ΔW·V·Vᵀ for orthonormal V (in, k): the update blind to those input directions."""
    delta = delta.float()
    return delta - (delta @ directions) @ directions.T
