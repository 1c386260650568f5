"""Repair methods: from an update to the projector weights to keep. Pure tensors in, pure tensors out."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from projclean.subspace import Moments, project_out, shrink, suspicious_subspace
from projclean.update import LayerUpdate, Update

Weights = dict[str, tuple[torch.Tensor, torch.Tensor | None]]
Directions = Mapping[str, torch.Tensor]

#: Shrinkage strength λ at which the suspicious subspace is taken (subspace.shrink).
STRENGTH = 1.0


def suspect_weights(update: Update) -> Weights:
    """The suspect's own weights."""
    return {layer.name: (layer.suspect, layer.suspect_bias) for layer in update.layers}


def base_weights(update: Update) -> Weights:
    """The base's weights: what restoring the base gives."""
    return {layer.name: (layer.base, layer.base_bias) for layer in update.layers}


def suspicious_directions(
    update: Update, moments: Mapping[str, Moments], rank: int, strength: float = STRENGTH
) -> Directions:
    """The top `rank` directions V (in, rank) of every layer's suspicious subspace, strongest first."""
    return {
        layer.name: suspicious_subspace(layer.delta, moments.get(layer.name), strength, rank)[0]
        for layer in update.layers
    }


def project(update: Update, directions: Directions) -> Weights:
    """W_suspect − ΔW·V·Vᵀ per layer, V (in, k) the directions of that layer; biases stay."""
    return {
        layer.name: (layer.base + project_out(layer.delta, directions[layer.name]), layer.suspect_bias)
        for layer in update.layers
    }


def reflect(update: Update, directions: Directions, keep: float) -> Weights:
    """W_base + keep·ΔW·(I − 2·V·Vᵀ) per layer, V (in, k) the directions of that layer; biases move by `keep` too.

    Projecting out leaves what a trigger does through directions that clean inputs share; turning the suspicious
    directions around works against it, at the same cost on clean inputs, which have little there.
    """
    result: Weights = {}
    for layer in update.layers:
        turned = 2 * project_out(layer.delta, directions[layer.name]) - layer.delta
        result[layer.name] = (layer.base + keep * turned, _mix(layer.base_bias, layer.suspect_bias, keep))
    return result


def shrunk(update: Update, moments: Mapping[str, Moments], strength: float) -> Weights:
    """W_base + shrink(ΔW, λ) per layer: only what clean inputs need of the update; biases stay."""
    result: Weights = {}
    for layer in update.layers:
        known = moments.get(layer.name)
        kept = layer.delta if known is None else shrink(layer.delta, known, strength)
        result[layer.name] = (layer.base + kept, layer.suspect_bias)
    return result


def interpolate(update: Update, share: float) -> Weights:
    """W_base + share·ΔW per layer, biases too; share > 1 amplifies the fine-tune."""
    return {
        layer.name: (layer.base + share * layer.delta, _mix(layer.base_bias, layer.suspect_bias, share))
        for layer in update.layers
    }


def updated(update: Update, weights: Weights) -> Update:
    """The update with the suspect's weights replaced: what is left after a repair."""
    return Update(
        tuple(
            LayerUpdate(layer.name, weights[layer.name][0], layer.base, weights[layer.name][1], layer.base_bias)
            for layer in update.layers
        ),
        update.other_changes,
    )


def smallest_side(update: Update) -> int:
    """The largest rank that every layer has."""
    return min(min(layer.base.shape) for layer in update.layers)


def _mix(base: torch.Tensor | None, suspect: torch.Tensor | None, share: float) -> torch.Tensor | None:
    return None if base is None or suspect is None else base + share * (suspect - base)
