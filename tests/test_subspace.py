"""The linear algebra, against definitions and closed forms."""

from __future__ import annotations

import pytest
import torch

from projclean import subspace


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments_of(x: torch.Tensor) -> subspace.Moments:
    moments = subspace.Moments.of_width(x.shape[1])
    for part in x.split(7):
        moments.add(part)
    return moments


def test_truncated_svd_is_the_best_approximation_small_and_large():
    for rows, columns in ((30, 20), (1200, 1100)):
        low = rand(rows, 3) @ rand(3, columns, seed=1)
        u, s, v = subspace.truncated_svd(low + 1e-4 * rand(rows, columns, seed=2), 3)
        assert torch.allclose((u * s) @ v.T, low, atol=2e-2)
        assert (s[:-1] >= s[1:]).all()
        assert torch.allclose(v.T @ v, torch.eye(3), atol=1e-4)


def test_large_svd_is_the_same_every_time():
    matrix = rand(1300, 1100)
    torch.manual_seed(5)
    first = subspace.truncated_svd(matrix, 4)[2]
    torch.manual_seed(6)
    assert torch.equal(first, subspace.truncated_svd(matrix, 4)[2])


def test_stable_rank_of_known_spectra():
    assert subspace.stable_rank(torch.eye(7)) == pytest.approx(7)
    assert subspace.stable_rank(torch.outer(rand(5), rand(9))) == pytest.approx(1, abs=1e-5)
    assert subspace.stable_rank(torch.zeros(3, 4)) == 0


def test_principal_angles_of_a_rotation():
    turn = torch.tensor(30.0).deg2rad()
    a = torch.eye(4)[:, :2]
    b = torch.stack([torch.eye(4)[:, 0], turn.cos() * torch.eye(4)[:, 1] + turn.sin() * torch.eye(4)[:, 2]], 1)
    assert subspace.principal_angles(a, b).tolist() == pytest.approx([0, 30], abs=1e-3)


def test_moments_do_not_depend_on_batching():
    x = rand(50, 6) + 2
    moments = moments_of(x)
    assert torch.allclose(moments.second, x.T @ x / 50, atol=1e-5)
    assert moments.variance == pytest.approx(x.var(0, unbiased=False).mean().item(), rel=1e-4)


def test_shrink_solves_its_ridge_problem():
    x, delta, strength = rand(200, 8), rand(5, 8, seed=3), 0.3
    moments = moments_of(x)
    kept = subspace.shrink(delta, moments, strength).requires_grad_(True)
    ridge = strength * moments.variance
    loss = ((x @ (delta - kept).T).square().sum(1).mean()) + ridge * kept.square().sum()
    (slope,) = torch.autograd.grad(loss, kept)
    assert slope.abs().max() < 1e-4


def test_residual_finds_the_direction_clean_inputs_never_use():
    hidden = torch.nn.functional.normalize(rand(16), dim=0)
    clean = rand(400, 16, seed=1)
    clean = clean - clean @ torch.outer(hidden, hidden)  # no energy along `hidden`
    task = rand(10, 16, seed=2)
    task = task - task @ torch.outer(hidden, hidden)
    update = 5 * task + torch.outer(rand(10, seed=3), hidden)
    plain = subspace.suspicious_subspace(update, None, 0.1, 1)[0][:, 0]
    found = subspace.suspicious_subspace(update, moments_of(clean), 0.01, 1)[0][:, 0]
    assert (found @ hidden).abs() > 0.99
    assert (plain @ hidden).abs() < 0.5


def test_project_out_blinds_the_update():
    delta, directions = rand(6, 9), torch.linalg.qr(rand(9, 2, seed=1))[0]
    left = subspace.project_out(delta, directions)
    assert (left @ directions).abs().max() < 1e-5
    across = torch.linalg.qr(rand(9, 2, seed=1), mode="complete")[0][:, 2:]
    assert torch.allclose(left @ across, delta @ across, atol=1e-5)
