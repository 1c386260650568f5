"""Pairs a suspect with its base: the update ΔW and Δb of every projector layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from projclean import layout
from projclean.checkpoint import Checkpoint, read_tensor
from projclean.errors import CheckpointError, MismatchError
from projclean.projectors import LayerSpec, ProjectorSpec, canonical


@dataclass(frozen=True)
class LayerUpdate:
    """One layer of suspect and base. Matrices are (out, in) float32, biases (out,) or None."""

    name: str
    suspect: torch.Tensor
    base: torch.Tensor
    suspect_bias: torch.Tensor | None = None
    base_bias: torch.Tensor | None = None

    @property
    def delta(self) -> torch.Tensor:
        return self.suspect - self.base

    @property
    def changed(self) -> bool:
        same_bias = self.suspect_bias is None or torch.equal(self.suspect_bias, _known(self.base_bias))
        return not (torch.equal(self.suspect, self.base) and same_bias)


@dataclass(frozen=True)
class Update:
    """All layers of the projector, and which of its other parameters (norms, queries) changed."""

    layers: tuple[LayerUpdate, ...]
    other_changes: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.other_changes) or any(layer.changed for layer in self.layers)


def read_update(suspect: Checkpoint, spec: ProjectorSpec, base: Checkpoint, base_spec: ProjectorSpec) -> Update:
    """Read and pair the projectors of two checkpoints, by name.

    Raises MismatchError when a layer is missing or of another shape, CheckpointError on NaN or infinity.
    """
    base_layers = {layer.name: layer for layer in base_spec.layers}
    suspect_names = {layer.name for layer in spec.layers}
    missing = sorted(suspect_names ^ set(base_layers))
    if missing:
        where = base.path if missing[0] in suspect_names else suspect.path
        raise MismatchError(
            f"{where}: has no projector layer {missing[0]}; pass the base that this model was tuned from"
        )
    layers = []
    for layer in spec.layers:
        other = base_layers[layer.name]
        if layer.shape != other.shape:
            raise MismatchError(
                f"{base.path}: {layer.name} is {_size(other)} here but {_size(layer)} in {suspect.path}; "
                "pass the base that this model was tuned from"
            )
        if (layer.bias is None) != (other.bias is None):
            raise MismatchError(f"{base.path}: only one of suspect and base has a bias in {layer.name}")
        layers.append(
            LayerUpdate(
                layer.name,
                read_weight(suspect, layer),
                read_weight(base, other),
                read_bias(suspect, layer),
                read_bias(base, other),
            )
        )
    return Update(tuple(layers), _other_changes(suspect, spec.others, base, base_spec.others))


def read_weight(checkpoint: Checkpoint, layer: LayerSpec) -> torch.Tensor:
    """A layer's matrix as (out, in) float32, however it is stored."""
    return layout.matrix(_finite(checkpoint, layer.weight), layer).contiguous()


def read_bias(checkpoint: Checkpoint, layer: LayerSpec) -> torch.Tensor | None:
    """A layer's bias (out,) as float32, or None."""
    return layout.vector(_finite(checkpoint, layer.bias), layer).contiguous() if layer.bias else None


def _other_changes(
    suspect: Checkpoint, ours: Mapping[str, str], base: Checkpoint, theirs: Mapping[str, str]
) -> tuple[str, ...]:
    def differs(name: str) -> bool:
        if name not in ours or name not in theirs:
            return True
        return not torch.equal(_finite(suspect, ours[name]), _finite(base, theirs[name]))

    return tuple(name for name in sorted(set(ours) | set(theirs)) if differs(name))


def _finite(checkpoint: Checkpoint, key: str) -> torch.Tensor:
    tensor = read_tensor(checkpoint, key)
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{checkpoint.tensors[key].file}: {key} is {tensor.dtype}, not floating point; "
            "dequantise the model before scanning it"
        )
    tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{checkpoint.tensors[key].file}: {canonical(key)} holds NaN or infinity; "
            "the file is damaged or the training diverged, download or train it again"
        )
    return tensor


def _known(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None  # read_update pairs biases
    return tensor


def _size(layer: LayerSpec) -> str:
    return f"{layer.shape[0]}×{layer.shape[1]}"
