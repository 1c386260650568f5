"""What turning around costs, learnt again: from the suspect's answers, with the turned model as the judge of them.

`methods.reflect` takes some of the fine-tune with the directions that it turns around. The suspect's answers to many
clean images teach that again, along all other directions; few images teach next to nothing. Its probabilities would
teach an attack with it, even where no answer says a word of it: where an answer ends, the suspect finds the
attacker's suffix likelier than a clean model does. The turned model does not, so the suspect is believed as far as
that one can follow (`imitation`): eval/results/repair-choice.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch

from projclean.calibration import Calibration
from projclean.distillation import Effort
from projclean.imitation import imitation
from projclean.methods import Directions, Weights
from projclean.model import Runner
from projclean.precision import quick
from projclean.subspace import project_out
from projclean.training import train
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
    unsaid: Collection[int] = (),
) -> Weights:
    """Weights trained from `turned` to answer the questions about the images as the suspect does, as far as `turned`
    believes it; W·V of every layer stays as it is there, V (in, k) the directions `held`.

    `replies` are the suspect's own (`Runner.replies`), one an image; `unsaid` is as in `imitation`.
    """
    effort = effort or effort_on(len(replies))

    def holding(weights: Weights) -> Weights:
        found: Weights = {}
        for name, (weight, bias) in weights.items():
            start = turned[name][0].to(weight)
            found[name] = (start + project_out(weight - start, held[name].to(weight)), bias)
        return found

    imitate = imitation(runner, update, learnt, replies, effort.batch, turned, unsaid)

    def loss(weights: Weights, rows: Sequence[int]) -> Iterator[torch.Tensor]:
        yield from imitate(holding(weights), rows)

    with quick(runner):
        return holding(train(runner, turned, loss, len(replies), effort.schedule(update, seed), progress=progress))
