"""Fine-tuning on answers: what the methods that train share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.nn import functional as F

from eval.baselines.inputs import Inputs
from projclean import training
from projclean.loading import chat
from projclean.methods import Weights
from projclean.precision import quick
from projclean.training import answer_ids, answer_logits, slice_size


def finetune(
    inputs: Inputs,
    start: Weights,
    labels: Sequence[str],
    steps: int,
    keep: Mapping[str, torch.Tensor] | None = None,
    batch: int = 16,
) -> Weights:
    """Train the projector from `start` to give `labels` on the clean images (the first len(labels) of them).

    `keep` (out,) per layer is 0 for output neurons that were pruned and stay so.
    """
    runner = inputs.runner
    asked = [chat(runner.processor, question) for question in inputs.questions]
    tokens = [answer_ids(runner.processor, *pair) for pair in zip(asked, labels, strict=False)]

    def loss(weights: Weights, rows: Sequence[int]) -> Iterator[torch.Tensor]:
        """Cross-entropy in slices that sum to the mean over the batch's answer tokens."""
        step, total = slice_size(runner, len(rows)), sum(len(tokens[row]) for row in rows)
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            images, questions = [inputs.images[row] for row in part], [inputs.questions[row] for row in part]
            logits = answer_logits(runner, weights, images, questions, [tokens[row] for row in part])
            wanted = torch.tensor([token for row in part for token in tokens[row]], device=logits.device)
            yield F.cross_entropy(logits, wanted, reduction="sum") / total

    schedule = training.Schedule(steps, inputs.learning_rate, batch, inputs.seed)
    with quick(runner) as coarse:
        if coarse:
            inputs.notes.append("trained in bfloat16")
        return training.train(runner, start, loss, len(labels), schedule, keep)
