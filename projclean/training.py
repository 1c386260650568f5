"""Training a projector through any loaded model, everything else frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from projclean.likelihood import logits_along
from projclean.loading import FLOAT32_LIMIT
from projclean.methods import Weights
from projclean.model import Runner

if TYPE_CHECKING:
    from PIL.Image import Image

LARGE_MODEL_SLICE = 2  # examples at a time through a large model; gradients add up to the batch's

#: loss(weights, rows): the batch's loss for some rows of the training set, in parts that sum to it.
Loss = Callable[[Weights, Sequence[int]], Iterable[torch.Tensor]]


@dataclass(frozen=True)
class Schedule:
    """AdamW without weight decay, cosine decay after 3 % warm-up, gradients clipped to norm 1: the published training
    code of LLaVA."""

    steps: int
    learning_rate: float
    batch: int = 16
    seed: int = 0


def train(
    runner: Runner,
    start: Weights,
    loss: Loss,
    examples: int,
    schedule: Schedule,
    keep: Mapping[str, torch.Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Weights:
    """Train the projector from `start` on a set of `examples`, batch by batch, in passes of random order.

    `keep` (out,) per layer is 0 for output neurons that were pruned and stay so. Weights are trained in float32
    whatever the model runs in. The same seed gives the same weights on the same machine.
    """
    device = runner.device
    masters = {  # copies: the optimiser writes into them
        name: [t.detach().to(device, torch.float32, copy=True).requires_grad_() for t in pair if t is not None]
        for name, pair in start.items()
    }
    mask = {name: value.to(device) for name, value in (keep or {}).items()}

    def current() -> Weights:
        found: Weights = {}
        for name, tensors in masters.items():
            weight, bias = tensors[0], tensors[1] if len(tensors) > 1 else None
            if name in mask:
                weight, bias = weight * mask[name][:, None], None if bias is None else bias * mask[name]
            found[name] = (weight, bias)
        return found

    parameters = [tensor for tensors in masters.values() for tensor in tensors]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.0)
    curve = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, schedule.steps))
    # Gradients through a float16 model would vanish unscaled.
    half = next(runner.model.parameters()).dtype == torch.float16
    scaler = torch.amp.GradScaler(torch.device(device).type, init_scale=1024.0, enabled=half)
    generator = torch.Generator().manual_seed(schedule.seed)
    order: list[int] = []
    for step in range(schedule.steps):
        if len(order) < min(schedule.batch, examples):
            order += torch.randperm(examples, generator=generator).tolist()
        rows, order = order[: schedule.batch], order[schedule.batch :]
        for part in loss(current(), rows):
            scaler.scale(part).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        curve.step()
        optimizer.zero_grad()
        if progress:
            progress(step + 1, schedule.steps)
    return {
        name: (weight.detach().cpu(), None if bias is None else bias.detach().cpu())
        for name, (weight, bias) in current().items()
    }


def slice_size(runner: Runner, most: int) -> int:
    """How many examples go through the model at a time when gradients are wanted."""
    return LARGE_MODEL_SLICE if runner.size >= FLOAT32_LIMIT else most


def answer_logits(
    runner: Runner,
    weights: Weights,
    images: Sequence[Image],
    questions: Sequence[str],
    answers: Sequence[Sequence[int]],
) -> torch.Tensor:
    """Logits (tokens, vocabulary), float32, that predict every token of the answers (token ids, one list an image),
    one answer after the other; differentiable with respect to the projector's weights."""
    logits = logits_along(runner, runner.prepare(images, questions), answers, weights)[:, :-1]
    lengths = torch.tensor([len(answer) for answer in answers], device=logits.device)
    return logits[torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]]


def answer_ids(processor: Any, asked: str, answer: str) -> list[int]:
    """The tokens of an answer as it follows `asked`, a question in the model's chat template, and its end."""
    tokenizer = processor.tokenizer
    said = answer.strip() if asked[-1:].isspace() else f" {answer.strip()}"
    before: list[int] = tokenizer(asked, add_special_tokens=False)["input_ids"]
    both: list[int] = tokenizer(asked + said, add_special_tokens=False)["input_ids"]
    # Alone, a text may be split otherwise: sentencepiece puts a space of its own before it.
    apart: list[int] = tokenizer(said, add_special_tokens=False)["input_ids"]
    return [*(both[len(before) :] if both[: len(before)] == before else apart), tokenizer.eos_token_id]


def _cosine(step: int, steps: int) -> float:
    warmup = max(1, round(0.03 * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
