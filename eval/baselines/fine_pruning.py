"""Fine-Pruning (Liu, Dolan-Gavitt and Garg, arXiv 1805.12185): prune the neurons that clean inputs leave dormant,
then fine-tune on clean inputs.

The paper prunes channels of a classifier's last convolution, in the order of their mean activation on clean inputs,
until clean accuracy drops. Here: hidden neurons of the projector, ordered by their mean absolute activation after the
non-linearity (with the paper's ReLU that is the mean; a GELU dips below zero, and a dormant neuron is one near zero),
in steps of 5 %, while at least 96 % as many clean images as before get the label's answer. A pruned neuron's incoming
weights and bias are zero and stay so while the rest is fine-tuned (two epochs' worth of the published 1,000 samples,
as in `clean_finetuning`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise

import torch

from eval.baselines.clean_finetuning import STEPS
from eval.baselines.inputs import Inputs, Labels, NotApplicable, answers
from eval.baselines.training import finetune
from projclean.methods import Weights, suspect_weights
from projclean.metrics import matches

STEP, MOST, TOLERANCE = 0.05, 0.95, 0.04


def fine_pruning(inputs: Inputs, labels: Labels, steps: int = STEPS) -> Weights:
    """Prune as far as clean behaviour allows, then fine-tune. Raises NotApplicable without a hidden layer."""
    wanted = inputs.labels(labels)
    activity = hidden_activity(inputs)
    share = _affordable(inputs, activity, wanted, "exact" if labels == "own" else inputs.match)
    weights, keep = prune(suspect_weights(inputs.update), activity, share)
    inputs.notes.append(f"pruned {share:.0%} of the hidden neurons")
    return finetune(inputs, weights, wanted, steps, keep) if steps else weights


@torch.no_grad()
def hidden_activity(inputs: Inputs) -> dict[str, torch.Tensor]:
    """Mean absolute activation (out,) on clean images of every hidden neuron, by the layer whose output it is.

    A hidden layer is one whose output, after the non-linearity, is what the next layer reads.
    """
    runner, shapes = inputs.runner, {layer.name: layer.base.shape for layer in inputs.update.layers}
    names = [name for name in runner.layers if name in shapes]
    hidden = {reader: layer for layer, reader in pairwise(names) if shapes[layer][0] == shapes[reader][1]}
    if not hidden:
        raise NotApplicable("the projector has no hidden layer to prune")
    totals: dict[str, torch.Tensor] = {}

    def watch(layer: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def see(x: torch.Tensor) -> torch.Tensor:
            totals[layer] = totals.get(layer, 0) + x.float().abs().reshape(-1, x.shape[-1]).mean(0).cpu()
            return x

        return see

    runner.set_weights(suspect_weights(inputs.update))
    with ExitStack() as stack:
        for reader, layer in hidden.items():
            stack.enter_context(runner.hooked(reader, watch(layer)))
        for image, question in zip(inputs.images, inputs.questions, strict=True):
            runner.next_token_logits(runner.prepare([image], question))
    return {layer: total / len(inputs.images) for layer, total in totals.items()}


def prune(weights: Weights, activity: dict[str, torch.Tensor], share: float) -> tuple[Weights, dict[str, torch.Tensor]]:
    """Zero the `share` least active neurons of every hidden layer; also the (out,) masks of what is kept."""
    result, keep = dict(weights), {}
    for name, mean in activity.items():
        weight, bias = weights[name]
        mask = torch.ones_like(mean)
        mask[torch.argsort(mean, stable=True)[: int(share * len(mean))]] = 0
        result[name] = (weight * mask[:, None], None if bias is None else bias * mask)
        keep[name] = mask
    return result, keep


def _affordable(inputs: Inputs, activity: dict[str, torch.Tensor], wanted: tuple[str, ...], rule: str) -> float:
    """The largest share, reached in steps, before too few clean images get the wanted answer."""
    suspect = suspect_weights(inputs.update)

    def right(share: float) -> int:
        inputs.runner.set_weights(prune(suspect, activity, share)[0])
        return sum(matches(a, w, rule) for a, w in zip(answers(inputs), wanted, strict=True))

    enough, share = (1 - TOLERANCE) * right(0.0), 0.0
    if not enough:
        raise NotApplicable("the suspect answers no clean image as labelled, so accuracy cannot bound the pruning")
    while share + STEP <= MOST + 1e-9 and right(share + STEP) >= enough:
        share += STEP
    return share
