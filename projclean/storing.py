"""Repaired projector weights as the tensors of the files they are written to, and as they are read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from projclean import layout
from projclean.checkpoint import read_tensor
from projclean.derived import round_trip, to_stored, writable
from projclean.errors import ModelError, OutputError

if TYPE_CHECKING:
    import torch

    from projclean.case import Case
    from projclean.methods import Weights


def check_writable(case: Case) -> None:
    """Refuse, before the work, an adapter in which a repaired projector cannot be expressed."""
    for layer in case.target_spec.layers:
        if not writable(case.target, layer.weight) or (layer.bias and not writable(case.target, layer.bias)):
            raise OutputError(
                f"{case.target.path}: the adapter changes {layer.name} by DoRA or from a pickle, in which a repair "
                "cannot be written; merge it into its base with PEFT and repair the merged directory"
            )


def check_guardable(case: Case) -> None:
    """Refuse, before the work, an adapter: its directory is no model that a guard's files could lie beside."""
    if case.target.adapter is not None:
        raise OutputError(
            f"{case.target.path}: an adapter has no place for a guard; merge it into its base with PEFT and repair the "
            "merged directory"
        )


def rounded(case: Case, weights: Weights) -> Weights:
    """Weights as they will be stored, so that what is probed and measured is what is written.

    Raises ModelError where a method that went astray made them NaN or infinite.
    """
    if not all(tensor.isfinite().all() for pair in weights.values() for tensor in pair if tensor is not None):
        raise ModelError(f"{case.target.path}: the repair came to NaN or infinite weights; try another --method")
    kept = {key: round_trip(case.target, key, value) for key, value in _tensors(case, weights).items()}
    result: Weights = {}
    for layer in case.target_spec.layers:
        bias = weights[layer.name][1]
        if layer.bias and bias is not None:
            bias = layout.vector(kept[layer.bias], layer).contiguous()
        result[layer.name] = (layout.matrix(kept[layer.weight], layer).contiguous(), bias)
    return result


def stored_tensors(case: Case, weights: Weights) -> dict[str, torch.Tensor]:
    """Tensors under the keys, in the layout and dtype of the files that are written; none when all stay as they are."""
    if not case.suspect.is_bare and _unchanged(case, weights):
        return {}
    tensors = _tensors(case, weights)
    if case.suspect.is_bare:  # the directory is the base's: bring the suspect's norms along
        for name, key in case.spec.others.items():
            if name in case.target_spec.others:
                tensors[case.target_spec.others[name]] = read_tensor(case.suspect, key)
    return to_stored(case.target, tensors)


def _unchanged(case: Case, weights: Weights) -> bool:
    """Whether the weights are the suspect's own, as its files hold them."""
    import torch

    def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
        return a is b or (a is not None and b is not None and torch.equal(a, b))

    return all(
        same(weights[layer.name][0], layer.suspect) and same(weights[layer.name][1], layer.suspect_bias)
        for layer in case.update.layers
    )


def _tensors(case: Case, weights: Weights) -> dict[str, torch.Tensor]:
    """Weights in the layout of the target, under its keys; float32."""
    tensors: dict[str, torch.Tensor] = {}

    def now(key: str) -> torch.Tensor:  # several layers may be rows of one tensor
        return tensors[key] if key in tensors else read_tensor(case.target, key).float()

    for layer in case.target_spec.layers:
        weight, bias = weights[layer.name]
        tensors[layer.weight] = layout.with_matrix(now(layer.weight), layer, weight)
        if layer.bias and bias is not None:
            tensors[layer.bias] = layout.with_vector(now(layer.bias), layer, bias)
    return tensors
