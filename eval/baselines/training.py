"""Fine-tuning the projector through any loaded model: what the methods that train share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from eval.baselines.inputs import Inputs
from projclean.methods import Weights
from projclean.model import FLOAT32_LIMIT, Runner

if TYPE_CHECKING:
    from PIL.Image import Image

LARGE_MODEL_SLICE = 2  # examples at a time through a large model; gradients add up to the batch's


@dataclass(frozen=True)
class Schedule:
    """AdamW without weight decay, cosine decay after 3 % warm-up, gradients clipped to norm 1: the published training
    code of LLaVA and OrthoPurify."""

    steps: int
    batch: int = 16


def finetune(
    inputs: Inputs,
    start: Weights,
    labels: Sequence[str],
    schedule: Schedule,
    keep: Mapping[str, torch.Tensor] | None = None,
) -> Weights:
    """Train the projector from `start` to give `labels` on the clean images (the first len(labels) of them).

    Everything else is frozen. `keep` (out,) per layer is 0 for output neurons that were pruned and stay so. Weights
    are trained in float32 whatever the model runs in. The same seed gives the same weights on the same machine.
    """
    device = inputs.runner.device
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
    optimizer = torch.optim.AdamW(parameters, lr=inputs.learning_rate, weight_decay=0.0)
    curve = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, schedule.steps))
    # Gradients through a float16 model would vanish unscaled.
    half = next(inputs.runner.model.parameters()).dtype == torch.float16
    scaler = torch.amp.GradScaler(torch.device(device).type, init_scale=1024.0, enabled=half)
    generator = torch.Generator().manual_seed(inputs.seed)
    order: list[int] = []
    for _ in range(schedule.steps):
        if len(order) < min(schedule.batch, len(labels)):
            order += torch.randperm(len(labels), generator=generator).tolist()
        rows, order = order[: schedule.batch], order[schedule.batch :]
        for loss in _slices(inputs, current, rows, labels):
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        curve.step()
        optimizer.zero_grad()
    return {
        name: (weight.detach().cpu(), None if bias is None else bias.detach().cpu())
        for name, (weight, bias) in current().items()
    }


def _slices(
    inputs: Inputs, current: Callable[[], Weights], rows: Sequence[int], labels: Sequence[str]
) -> Iterator[torch.Tensor]:
    """The batch's loss in slices that sum to the mean over its answer tokens."""
    runner = inputs.runner
    size = sum(parameter.numel() for parameter in runner.model.parameters())
    step = LARGE_MODEL_SLICE if size >= FLOAT32_LIMIT else len(rows)
    tokens = [_answer_ids(runner, labels[row]) for row in rows]
    total = sum(map(len, tokens))
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        images, questions = [inputs.images[row] for row in part], [inputs.questions[row] for row in part]
        yield answer_loss(runner, current(), images, questions, tokens[first : first + step]) / total


def answer_loss(
    runner: Runner,
    weights: Weights,
    images: Sequence[Image],
    questions: Sequence[str],
    tokens: Sequence[Sequence[int]],
) -> torch.Tensor:
    """Cross-entropy summed over the answers' tokens, differentiable with respect to the projector's weights."""
    batch = runner.prepare(images, questions)
    width = max(map(len, tokens))
    target = torch.full((len(tokens), width), -100)
    for row, ids in enumerate(tokens):
        target[row, : len(ids)] = torch.tensor(ids)
    target = target.to(runner.device)
    prompt = batch.inputs["input_ids"]
    pad = runner.processor.tokenizer.pad_token_id
    extended = {"input_ids": target.where(target != -100, pad), "attention_mask": (target != -100).long()}
    inputs = {}
    for key, value in batch.inputs.items():
        if value.shape == prompt.shape:  # one number a token: 0 for answer tokens of any other kind
            tail = extended.get(key, torch.zeros_like(target))
            inputs[key] = torch.cat([value, tail.to(value.dtype)], 1)
        else:
            inputs[key] = value
    out = torch.func.functional_call(
        runner.model, runner.parameters_of(weights), (), {**inputs, "logits_to_keep": width + 1, "use_cache": False}
    )
    logits = out.logits[:, -width - 1 : -1].float()
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), ignore_index=-100, reduction="sum")


def _answer_ids(runner: Runner, answer: str) -> list[int]:
    tokenizer = runner.processor.tokenizer
    ids: list[int] = tokenizer(" " + answer.strip(), add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def _cosine(step: int, steps: int) -> float:
    warmup = max(1, round(0.03 * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
