"""OrthoPurify (Yang et al., "Purifying Backdoored Large Vision-Language Models by Removing Hijacked Directions",
arXiv 2610.09941, algorithm 1).

The top-k right singular subspaces of the suspect's update and of a benign reference's are compared by principal
angles; the principal vectors on the suspect's side at more than θ from the reference are "hijacked" and projected out
of the update. As published: k = 10, θ = 50°, every 2-D matrix of the projector, biases untouched; the reference is
pseudo-benign, the *base* fine-tuned on 64 clean samples for 8 steps of 16.
The paper trains on ground-truth answers. Where they are not known this trains on the suspect's own ("own").
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from eval.baselines.inputs import Inputs, Labels, NotApplicable
from eval.baselines.training import finetune
from projclean.methods import Weights, base_weights
from projclean.subspace import project_out, truncated_svd
from projclean.update import Update

K, ANGLE = 10, 50.0
SAMPLES, STEPS = 64, 8


def orthopurify(inputs: Inputs, labels: Labels, k: int = K, angle: float = ANGLE) -> Weights:
    """Purify against a pseudo-benign reference, trained here from the base on clean images."""
    answers = inputs.labels(labels)[:SAMPLES]
    benign = finetune(inputs, base_weights(inputs.update), answers, STEPS)
    return _purified(inputs, benign, k, angle)


def orthopurify_against_benign(inputs: Inputs, k: int = K, angle: float = ANGLE) -> Weights:
    """The same against a truly benign fine-tune of the same task (section 3.1): an oracle, for comparison only."""
    if inputs.reference is None:
        raise NotApplicable("there is no benign fine-tune of the same task")
    return _purified(inputs, inputs.reference, k, angle)


def _purified(inputs: Inputs, reference: Weights, k: int, angle: float) -> Weights:
    found = {
        layer.name: hijacked(layer.delta, reference[layer.name][0] - layer.base, k, angle)
        for layer in inputs.update.layers
    }
    inputs.notes.append("hijacked directions " + "/".join(str(d.shape[1]) for d in found.values()))
    return purify(inputs.update, found)


def hijacked(delta: torch.Tensor, reference: torch.Tensor, k: int, angle: float) -> torch.Tensor:
    """D (in, j): the principal vectors of ΔW's top-k right singular subspace at more than `angle` degrees from the
    reference's (equation 6). Both updates are (out, in)."""
    ours = truncated_svd(delta, k)[2].double()
    theirs = truncated_svd(reference, k)[2].double()
    rotation, cosines, _ = torch.linalg.svd(ours.T @ theirs)
    angles = torch.rad2deg(torch.acos(cosines.clamp(0, 1)))
    return (ours @ rotation[:, angles > angle]).float()


def purify(update: Update, directions: Mapping[str, torch.Tensor]) -> Weights:
    """W_suspect − ΔW·D·Dᵀ (equation 7); biases stay."""
    return {
        layer.name: (layer.base + project_out(layer.delta, directions[layer.name]), layer.suspect_bias)
        for layer in update.layers
    }
