"""What turning around costs, learnt again: from the suspect's answers, along all directions but those that were turned.

`methods.reflect` takes some of the fine-tune with the directions that it turns around. The suspect's answers to many
clean images teach that again, and what was turned stays as it is: the gradient has no part in those directions. Few
images teach nothing here (eval/results/repair-choice.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from projclean.calibration import Calibration
from projclean.distillation import Effort, imitation, root_mean_square
from projclean.methods import Directions, Weights
from projclean.model import Runner
from projclean.precision import quick
from projclean.subspace import project_out
from projclean.training import Schedule, train
from projclean.update import Update


def effort_on(images: int) -> Effort:
    """A step for four images, at less of a pace than that of a model which has all to learn."""
    return Effort(max(1, images // 4), pace=0.02)


def recover(
    runner: Runner,
    update: Update,
    learnt: Calibration,
    replies: Sequence[Sequence[int]],
    turned: Weights,
    held: Directions,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    effort: Effort | None = None,
) -> Weights:
    """Weights trained from `turned` to answer the questions about the images as the suspect does, W·V of every layer as
    it is there, V (in, k) the directions `held`.

    `replies` are the suspect's own (`Runner.replies`), one an image. Minimises what `distill` does.
    """
    effort = effort or effort_on(len(replies))

    def holding(weights: Weights) -> Weights:
        found: Weights = {}
        for name, (weight, bias) in weights.items():
            start = turned[name][0].to(weight)
            found[name] = (start + project_out(weight - start, held[name].to(weight)), bias)
        return found

    imitate = imitation(runner, update, learnt, replies, effort.batch)

    def loss(weights: Weights, rows: Sequence[int]) -> Iterator[torch.Tensor]:
        yield from imitate(holding(weights), rows)

    schedule = Schedule(effort.steps, effort.pace * root_mean_square(update), effort.batch, seed)
    with quick(runner):
        return holding(train(runner, turned, loss, len(replies), schedule, progress=progress))
