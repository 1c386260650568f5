"""Repair by learning again: go back towards the base, then learn from the suspect what it does on clean images.

Removing directions cannot part what a fine-tune and its backdoor share. Learning again can: what clean images do not
show is not learnt. The projector starts at `W_base + c·ΔW`, with c so small that the backdoor is not there, and is
trained to give the suspect's own answers to clean images with the suspect's own probabilities (knowledge distillation,
Hinton et al., arXiv 1503.02531; against backdoors first by Li et al., arXiv 2101.05930, into the suspect itself with a
teacher that was fine-tuned). No labels are needed, and no trigger; images of the model's own domain keep most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from projclean.calibration import Calibration
from projclean.lessons import IMAGES
from projclean.methods import Weights, interpolate, suspect_weights
from projclean.model import Runner
from projclean.precision import quick
from projclean.training import Schedule, answer_logits, slice_size, train
from projclean.update import Update

#: Nats by which the suspect may find a token likelier than a judge does before it is not believed.
CREDIT = 1.0


@dataclass(frozen=True)
class Effort:
    """Steps, images a step, and the learning rate as a share of the root mean square of ΔW: Adam moves an entry by up
    to one learning rate a step."""

    steps: int = 240
    batch: int = 8
    pace: float = 0.03

    @classmethod
    def on(cls, images: int) -> Effort:
        """The usual effort for up to `IMAGES` images; for more, seven steps for ten images and a pace that grows with
        their cube root: what more images teach reaches further (eval/results/repair-choice.md)."""
        usual, more = cls(), max(1.0, images / IMAGES)
        return cls(max(usual.steps, round(0.7 * images)), usual.batch, usual.pace * more ** (1 / 3))


def distill(
    runner: Runner,
    update: Update,
    learnt: Calibration,
    replies: Sequence[Sequence[int]],
    share: float,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    effort: Effort | None = None,
    judge: Weights | None = None,
) -> Weights:
    """Weights trained from `W_base + share·ΔW` to answer the questions about the images as the suspect does.

    `replies` are the suspect's own (`Runner.replies`), one an image. Minimises the mean over their tokens of
    KL(suspect ‖ trained). With a `judge` the suspect is believed as far as the judge can follow (`_believed`).
    """

    def spoken(weights: Weights, rows: Sequence[int]) -> torch.Tensor:
        """Log-probabilities (tokens, vocabulary) of the replies to some images, one after the other."""
        shown, asked = [learnt.pictures[row] for row in rows], [learnt.questions[row] for row in rows]
        return answer_logits(runner, weights, shown, asked, [replies[row] for row in rows]).log_softmax(-1)

    effort = effort or Effort()
    slices = slice_size(runner, effort.batch)
    wanted: list[torch.Tensor] = []  # the suspect's, once an image
    for first in range(0, len(replies), slices):
        rows = range(first, min(first + slices, len(replies)))
        with torch.no_grad():
            said = spoken(suspect_weights(update), rows)
            if judge is not None:
                said = _believed(said, spoken(judge, rows))
        wanted += said.to("cpu", torch.float16).split([len(replies[row]) for row in rows])

    def loss(weights: Weights, rows: Sequence[int]) -> Iterator[torch.Tensor]:
        total = sum(len(replies[row]) for row in rows)
        for first in range(0, len(rows), slices):
            part = rows[first : first + slices]
            given = spoken(weights, part)
            target = torch.cat([wanted[row] for row in part]).to(given)
            yield F.kl_div(given, target, reduction="sum", log_target=True) / total

    schedule = Schedule(effort.steps, effort.pace * _root_mean_square(update), effort.batch, seed)
    with quick(runner):
        return train(runner, interpolate(update, share), loss, len(replies), schedule, progress=progress)


def _believed(said: torch.Tensor, judged: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the suspect (tokens, vocabulary), of which each counts up to e^`CREDIT` times the judge's;
    what is left over is shared out as the judge would."""
    shared = torch.minimum(said, judged + CREDIT).exp()
    left = (1 - shared.sum(-1, keepdim=True)).clamp(min=0)
    return (shared + left * judged.exp()).clamp(min=1e-7).log().log_softmax(-1)


def _root_mean_square(update: Update) -> float:
    """Of all entries of ΔW."""
    squares = sum(layer.delta.square().sum().item() for layer in update.layers)
    return float((squares / sum(layer.delta.numel() for layer in update.layers)) ** 0.5)
