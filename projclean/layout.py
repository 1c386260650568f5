"""How a layer's matrix (out, in) lies in the tensor that is stored: transposed, as a convolution's kernel
(out, in, height, width), or as some rows of a fused tensor. Reading and writing go through here alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from projclean.projectors import LayerSpec


def matrix(stored: torch.Tensor, layer: LayerSpec) -> torch.Tensor:
    """A layer's matrix (out, in), as a view of the stored tensor."""
    part = _rows(stored, layer)
    return part.T if layer.transposed else part.reshape(part.shape[0], -1)


def vector(stored: torch.Tensor, layer: LayerSpec) -> torch.Tensor:
    """A layer's bias (out,), as a view of the stored tensor."""
    return _rows(stored, layer)


def with_matrix(stored: torch.Tensor, layer: LayerSpec, weight: torch.Tensor) -> torch.Tensor:
    """The stored tensor with the layer's matrix replaced; rows of other layers stay. A copy."""
    return _with_rows(stored, layer, weight.T if layer.transposed else weight)


def with_vector(stored: torch.Tensor, layer: LayerSpec, bias: torch.Tensor) -> torch.Tensor:
    """The stored bias with the layer's part replaced. A copy."""
    return _with_rows(stored, layer, bias)


def _rows(stored: torch.Tensor, layer: LayerSpec) -> torch.Tensor:
    return stored if layer.rows is None else stored[layer.rows[0] : layer.rows[1]]


def _with_rows(stored: torch.Tensor, layer: LayerSpec, value: torch.Tensor) -> torch.Tensor:
    result = stored.clone()
    part = _rows(result, layer)
    part.copy_(value.reshape(part.shape))
    return result
