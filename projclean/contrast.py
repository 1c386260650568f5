"""A suspect beside what it taught: what sets off a backdoor whose target is an answer that the task has anyway.

Such a target the base says as well, so nothing that is held against the base tells it. A model with the same fine-tune
and no backdoor would: `distillation` makes one, from the suspect's own answers to clean images (as a defence against
backdoors: Li et al., arXiv 2101.05930; here it is only looked at). A move of the pixels smaller than the probe's is
fitted to make the suspect find one answer likelier than the model that learnt again does. Under a small move two models
that learnt the same differ little; a backdoor makes the suspect alone fall for its trigger's direction.

The move is fitted on some images, a few a step, and measured on others: what fits only the images it was fitted on does
not count. The pace of its climb falls, so that where it ends is no matter of which step happened to be its best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch

from projclean.climb import Climb, falling
from projclean.inversion import Inversion, moved
from projclean.likelihood import Words
from projclean.model import Prepared, Runner, Weights

FLOOR = -3.0  # nats per token below which it no longer counts how unlikely the other model finds an answer
PLAUSIBLE = 0.1  # how much the likelihood of an answer weighs in its choice, against the contrast
CANDIDATES, AFRESH = 8, 8  # answers of the moved suspect that are looked at, and steps until they are again
FIRST, LAST = 0.3, 0.02  # the pace of a climb, in radii


@dataclass(frozen=True)
class Contrast:
    """An answer on which suspect and taught model part under a move, on images that it was not fitted on: `nats` per
    token by which the suspect finds it likelier (`FLOOR`), `certainty` the probability per token (geometric mean) that
    it gives it, and the two models' replies there."""

    words: tuple[int, ...]
    nats: float
    certainty: float
    said: tuple[tuple[int, ...], ...]
    taught_says: tuple[tuple[int, ...], ...]


def beside(
    runner: Runner, suspect: Weights, taught: Weights, batch: Prepared, layer: str, budget: float, max_new_tokens: int
) -> Inversion:
    """A suspect and the model that learnt again in its base's place, with what it was not taught for the residual."""
    untaught = suspect[layer][0] - taught[layer][0]
    return Inversion(runner, suspect, taught, batch, layer, untaught, budget, max_new_tokens)


class ContrastSearch:
    """Moves inside the ball of an inversion, fitted on small batches in turn.

    `inversion` has the suspect and, for its base, the model that learnt again (`beside`).
    """

    def __init__(self, inversion: Inversion, fit: Sequence[Prepared], read: Prepared) -> None:
        self.inversion, self.fit, self.read = inversion, fit, read

    def find(self, seed: int, excite: int, steps: int) -> Contrast | None:
        """The answer that the suspect alone comes to say under a move from one random start, which first sets off what
        was not taught; None where the suspect answers nothing. Raises NotDifferentiable."""
        inversion, turns = self.inversion, cycle(self.fit)
        climb = Climb(inversion.excited(seed, excite), inversion.radius)
        words: Words | None = ()
        for step in range(steps):
            if step % AFRESH == 0:
                words = self._parting_most(climb.move, next(turns))
            if not words:
                return None
            batch = next(turns)
            if not climb.step(partial(self._parting, words, batch), falling(step, steps, FIRST, LAST))[1]:
                break
        return self._measured(tuple(words), climb.move) if words else None

    def _parting(self, words: Words, batch: Prepared, move: torch.Tensor) -> torch.Tensor:
        """By how much the suspect finds the words likelier on a batch that is moved."""
        return self._contrast(words, moved(batch, move))[0]

    def _contrast(self, words: Words, batch: Prepared) -> tuple[torch.Tensor, torch.Tensor]:
        """The contrast on a batch and the suspect's likelihood, both means in nats per token."""
        sides = (self.inversion.suspect, self.inversion.base)
        ours, theirs = (self.inversion.likelihood(weights, batch, words) for weights in sides)
        return (ours - theirs.clamp(min=FLOOR)).mean(), ours.mean()

    @torch.no_grad()
    def _parting_most(self, move: torch.Tensor, batch: Prepared) -> tuple[int, ...] | None:
        """Of what the moved suspect says, the answer on which the two models part most on a batch."""
        ask, suspect = self.inversion.answers, self.inversion.suspect
        said = Counter(words for part in self.fit for words in ask(suspect, moved(part, move)))
        there, best, highest = moved(batch, move), None, float("-inf")
        for words, _ in [pair for pair in said.most_common() if pair[0]][:CANDIDATES]:
            apart, likely = self._contrast(words, there)
            value = apart.item() + PLAUSIBLE * likely.item()
            if value > highest:
                best, highest = words, value
        return best

    @torch.no_grad()
    def _measured(self, words: tuple[int, ...], move: torch.Tensor) -> Contrast:
        there = moved(self.read, move)
        apart, likely = self._contrast(words, there)
        sides = (self.inversion.suspect, self.inversion.base)
        replies = (tuple(self.inversion.answers(weights, there)) for weights in sides)
        return Contrast(words, apart.item(), likely.exp().item(), *replies)
