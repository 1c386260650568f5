"""What an adapter makes of a base's weights, computed as PEFT computes it, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from projclean.adapter import Adapter, Change
from projclean.checkpoint import read_tensor

if TYPE_CHECKING:
    import torch

HOLDS = 0.5  # of the energy of a repaired update; with less, what was learnt is lost


def change_weight(base: torch.Tensor, change: Change, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The parameter that the adapter makes of the base's, float32, in the base's shape.

    `stored` holds the adapter's tensors by key. Raises ValueError when the shapes do not fit.
    """
    weight = stored[change.replaced].float() if change.replaced else base.float()
    for key in (change.replaced, change.bias):
        if key and stored[key].shape != base.shape:
            raise ValueError(f"puts {list(stored[key].shape)} where the base has {list(base.shape)}")
    if change.bias:
        return weight + change.scale * stored[change.bias].float()
    if not (change.a and change.b):
        return weight
    delta, turned = _product(change, stored, base.shape)
    weight = weight + (delta.T if turned else delta).reshape(weight.shape)
    if not change.magnitude:
        return weight
    rows = (weight.T if turned else weight).flatten(1)
    magnitude = stored[change.magnitude].float().flatten()
    if len(magnitude) != len(rows):
        raise ValueError(f"scales {len(magnitude)} rows, the base has {len(rows)}")
    factor = magnitude / rows.norm(dim=1)
    scaled = factor[:, None] * rows
    return (scaled.T if turned else scaled).reshape(weight.shape)


def express(
    value: torch.Tensor, base: torch.Tensor, change: Change, stored: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The adapter's tensors that make the parameter `value`; the rest of the adapter stays as it is.

    A replaced parameter and a bias are replaced anew. Of a LoRA only A changes where that is exact: a repair that
    multiplies ΔW from the right gives `B·A·M = B·(A·M)`, and A·M = B⁺(value − base)/s. What was learnt anew has columns
    that B has not: then A and B hold the nearest of their rank (Eckart and Young, Psychometrika 1, 1936). Raises
    ValueError where less than `HOLDS` of the update's energy fits.
    """
    import torch

    if change.replaced:
        rest = change_weight(base, change, stored) - stored[change.replaced].float()
        return {change.replaced: value - rest}
    if change.bias:
        return {change.bias: (value - base.float()) / change.scale}
    assert change.a is not None
    assert change.b is not None
    a, b = stored[change.a], stored[change.b]
    _, turned = _product(change, stored, base.shape)
    wanted = (value - base.float()).double()
    wanted = (wanted.T if turned else wanted).flatten(1)
    left = b.double().flatten(1)
    new = left.pinverse() @ wanted / change.scale
    missed = (change.scale * left @ new - wanted).norm() / wanted.norm().clamp_min(1e-30)
    noise = 1e-6 * base.float().norm() / wanted.norm().clamp_min(1e-30)  # of the difference to the base
    if missed <= 1e-4 + noise:
        return {change.a: new.float().reshape(a.shape)}
    outer, values, inner = torch.linalg.svd(wanted, full_matrices=False)
    rank = b.shape[1]
    held = values[:rank].square().sum() / values.square().sum()
    if held < HOLDS:
        raise ValueError(f"only {held:.0%} of the repaired update's energy fits the adapter's {rank} dimensions")
    root = values[:rank].sqrt()
    return {
        change.a: (root[:, None] * inner[:rank]).float().reshape(a.shape),
        change.b: (outer[:, :rank] * root / change.scale).float().reshape(b.shape),
    }


def _product(change: Change, stored: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> tuple[torch.Tensor, bool]:
    """s·B·A (out, in), and whether the parameter is stored as its transpose.

    That follows from the shapes: PEFT itself takes `fan_in_fan_out` back for a Linear and sets it for a Conv1D.
    """
    assert change.a is not None
    assert change.b is not None
    a, b = stored[change.a].float().flatten(1), stored[change.b].float().flatten(1)
    rows, columns = b.shape[0], a.shape[1]
    flat = (math.prod(shape[:1]), math.prod(shape[1:]))
    if a.shape[0] == b.shape[1] and flat == (rows, columns) and not change.embedding:
        return change.scale * (b @ a), False
    if a.shape[0] == b.shape[1] and flat == (columns, rows) and len(shape) == 2:
        return change.scale * (b @ a), True
    raise ValueError(f"adapts a matrix of {rows}×{columns}, the base has {'×'.join(map(str, shape))}")


def read_sources(adapter: Adapter, change: Change) -> dict[str, torch.Tensor]:
    """The adapter's tensors that a change is made of, as stored."""
    return {key: read_tensor(adapter.files, key) for key in change.sources}
