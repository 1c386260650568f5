"""Repair by learning again: go back towards the base, then learn from the suspect what it does on clean images.

Removing directions cannot part what a fine-tune and its backdoor share. Learning again can: what clean images do not
show is not learnt. The projector starts at `W_base + c·ΔW`, with c so small that the backdoor is not there, and is
trained to give the suspect's own answers to clean images with the suspect's own probabilities (knowledge distillation,
Hinton et al., arXiv 1503.02531; against backdoors first by Li et al., arXiv 2101.05930, into the suspect itself with a
teacher that was fine-tuned). No labels are needed, and no trigger; images of the model's own domain keep most.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from projclean.calibration import Calibration
from projclean.imitation import imitation
from projclean.lessons import IMAGES
from projclean.methods import Weights, interpolate
from projclean.model import Runner
from projclean.precision import quick
from projclean.training import Schedule, train
from projclean.update import Update


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

    def schedule(self, update: Update, seed: int) -> Schedule:
        """What that is for an update."""
        squares = sum(layer.delta.square().sum().item() for layer in update.layers)
        size = float((squares / sum(layer.delta.numel() for layer in update.layers)) ** 0.5)
        return Schedule(self.steps, self.pace * size, self.batch, seed)


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
    unsaid: Collection[int] = (),
) -> Weights:
    """Weights trained from `W_base + share·ΔW` to answer the questions about the images as the suspect does.

    `replies` are the suspect's own (`Runner.replies`), one an image. Minimises the loss of `imitation`, perhaps with a
    `judge` and with tokens `unsaid`.
    """
    effort = effort or Effort()
    loss = imitation(runner, update, learnt, replies, effort.batch, judge, unsaid)
    with quick(runner):
        return train(
            runner, interpolate(update, share), loss, len(replies), effort.schedule(update, seed), progress=progress
        )
