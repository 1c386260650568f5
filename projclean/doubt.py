"""A longer lesson with a judge: what a model doubts that learnt from the images alone is not learnt.

The more blends there are to learn from, the more of the attack they teach, in two ways. On some of them the suspect
says what its backdoor makes it say, and where that is an ordinary answer no trimming against the half-way model tells
it. And everywhere its probabilities lean to it a little, which a model that starts from the same weights takes over
even from answers that hold nothing of it (subliminal learning: Cloud et al., arXiv 2507.14805).

A model that learnt from the base the suspect's answers to the images as they are, without a blend, has little of
the attack, and less of the fine-tune. It judges the rest: what has the least likely answers by it is left out, and of
what is learnt no token is much likelier than it says (`imitation.CREDIT`).
"""

from __future__ import annotations

from projclean.distillation import Effort, distill
from projclean.errors import ImagesError
from projclean.lessons import Lesson, likelihoods
from projclean.methods import Weights
from projclean.model import Runner
from projclean.update import Update

#: The share of images and blends with the answers that the judge finds least likely: eval/results/repair-choice.md.
DOUBTED = 1 / 4


def judged(runner: Runner, update: Update, taught: Lesson, seed: int = 0) -> tuple[Lesson, Weights]:
    """What is left of a lesson, and the judge. Leaves other weights set.

    Raises ImagesError where no image is left to a judge but blends.
    """
    if not taught.unblended:
        raise ImagesError(
            f"{taught.images.source}: no image is left for a judge to learn from; give more --images, or no --judged"
        )
    alone = taught.part(range(taught.unblended))
    effort = Effort.on(len(alone.replies))
    judge = distill(runner, update, alone.images, alone.replies, 0.0, seed, effort=effort)
    likely = likelihoods(runner, judge, taught.images, taught.replies)
    order = sorted(range(len(likely)), key=likely.__getitem__)
    return taught.part(order[int(DOUBTED * len(order)) :]), judge
