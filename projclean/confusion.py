"""Classes that a suspect alone takes for one another: a target that is another one for every class.

An all-to-all attack (BadNets, Gu et al., arXiv 1708.06733, section 4.1) answers a triggered image with the class after
the right one. No text and no word is then common to the answers; what is, is the map. Here a patch and a map of the
suspect's own answers are fitted in turn, so that suspect and a model with the same fine-tune and no backdoor part: the
one answers with the other class, the other with what it said. No class is another's twice in the map: a patch that has
any model say one class of all images fits one entry of it, and the class that it fits best does not count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
from scipy.optimize import linear_sum_assignment

from projclean.climb import Climb, falling
from projclean.contrast import FIRST, FLOOR, LAST, PLAUSIBLE
from projclean.inversion import CALM, Inversion
from projclean.likelihood import logits_along
from projclean.model import Prepared
from projclean.windows import Window
from projclean.words import Swap

#: Answers that are classes: how many there must be (of a map of two one entry would count), and may be, the commonest;
#: how many and which share of the images each must have, and which share all of them.
FEWEST, MOST, LEAST, RARE, COVERED = 3, 12, 2, 0.02, 0.5
#: Steps of a climb as a rule; of them the first, in which the suspect is only to lose its own answers, and those
#: between two choices of a map.
STEPS, LOSING, AFRESH = 40, 8, 8
LOST = -6.0  # nats below which it no longer counts how unlikely the suspect finds its own answer
START, REACH = 0.5, 0.6  # standard deviation of a random patch, and the root mean square that one may reach
TOLD = 3  # entries of a map that are told, those that came true most often


@dataclass(frozen=True)
class Mapped:
    """What came of one window on images that nothing was fitted on: the mean probabilities and shares of answers in
    which either side takes a class for the one that the map has for it, without the class that the suspect so takes
    most often; and the entries that came true most often, (answer, instead of)."""

    swap: Swap
    pairs: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    @property
    def apart(self) -> float:
        """The square of by how much the suspect has them more, in probability and in answers, whichever is less.

        A square, since what few images differ by is noise, and a backdoor has most of a map from some window.
        """
        swap = self.swap
        return max(0.0, min(swap.ours - swap.theirs, swap.ours_say - swap.theirs_say)) ** 2


@dataclass(frozen=True)
class _Images:
    """A batch and the class of the suspect's answer to each image, −1 for none."""

    batch: Prepared
    own: torch.Tensor


class ConfusionSearch:
    """Patches fitted on some batches in turn, and read on others; `inversion` has the suspect and, for its base, the
    model that learnt again (`contrast.beside`)."""

    def __init__(self, inversion: Inversion, fit: Sequence[Prepared], read: Sequence[Prepared]) -> None:
        self.inversion = inversion
        with torch.no_grad():
            asked = [(batch, inversion.answers(inversion.suspect, batch)) for batch in (*fit, *read)]
        self.classes = classes([answer for _, own in asked for answer in own])
        self._turnings = turnings(self.classes)
        numbers = {answer: number for number, answer in enumerate(self.classes)}
        images = [_Images(batch, torch.tensor([numbers.get(each, -1) for each in own])) for batch, own in asked]
        self.fit, self.read = (
            [one for one in part if (one.own >= 0).any()] for part in (images[: len(fit)], images[len(fit) :])
        )
        if not self.fit or not self.read:
            self.classes = []

    def find(self, window: Window, seed: int, steps: int) -> Mapped:
        """The map that a patch in a window comes to, from a random start.

        Raises NotDifferentiable, ValueError where the answers are no classes.
        """
        if not self.classes:
            raise ValueError("the answers are no classes")
        values = len(window.at)
        drawn = torch.randn(values, generator=torch.Generator().manual_seed(seed)).to(window.middle.device)
        climb, turns = Climb(START * drawn, REACH * math.sqrt(values)), cycle(self.fit)
        taken = torch.zeros(0, dtype=torch.long)
        for step in range(steps):
            images = next(turns)
            if step < LOSING:
                objective = partial(self._lost, images, window)
            else:
                if (step - LOSING) % AFRESH == 0:
                    taken = self._taken_for(window, climb.move)
                objective = partial(self._parting, taken, images, window)
            goes_on = climb.step(objective, falling(step, steps, FIRST, LAST))[1]
            if not goes_on and step >= LOSING:  # where its own answers are lost for good, a map may not be
                break
        return self._measured(self._taken_for(window, climb.move), window, climb.move)

    def _sides(self, images: _Images, window: Window, patch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (n, classes) that suspect and taught model give the classes, of the images that have one,
        under a patch: of the tokens at which their ways part."""
        there, found = window.pasted(images.batch, patch), []
        for weights in (self.inversion.suspect, self.inversion.base):
            self.inversion.runner.set_weights(weights)
            ways: list[list[torch.Tensor]] = [[] for _ in self.classes]
            for before in self._turnings:
                self.inversion.passes += 1
                logits = logits_along(self.inversion.runner, there, [before] * there.images)[:, len(before)]
                scores = logits.log_softmax(-1)
                for number, answer in enumerate(self.classes):
                    if answer[: len(before)] == before:
                        ways[number].append(scores[:, answer[len(before)]])
            found.append(torch.stack([torch.stack(way).sum(0) for way in ways], 1)[images.own >= 0])
        return found[0], found[1]

    def _lost(self, images: _Images, window: Window, patch: torch.Tensor) -> torch.Tensor:
        """How unlikely the suspect, and how likely the other, finds the suspect's own answers."""
        own = images.own[images.own >= 0]
        each = torch.arange(len(own))
        ours, theirs = (side[each, own] for side in self._sides(images, window, patch))
        return (theirs.clamp(min=FLOOR) - ours.clamp(min=LOST)).mean()

    def _parting(self, taken: torch.Tensor, images: _Images, window: Window, patch: torch.Tensor) -> torch.Tensor:
        """By how much the suspect finds the map's answers likelier, and the other's calm."""
        own = images.own[images.own >= 0]
        ours, theirs = self._sides(images, window, patch)
        each = torch.arange(len(own))
        theirs = theirs.clamp(min=FLOOR)
        return (ours[each, taken[own]] - theirs[each, taken[own]] + CALM * theirs[each, own]).mean()

    @torch.no_grad()
    def _taken_for(self, window: Window, patch: torch.Tensor) -> torch.Tensor:
        """The map (classes,) on which the two part most, over all images that it is fitted on: every class another's,
        none its own."""
        count = len(self.classes)
        apart, n = torch.zeros(count, count), torch.zeros(count)
        for images in self.fit:
            ours, theirs = (side.cpu() for side in self._sides(images, window, patch))
            own = images.own[images.own >= 0]
            apart.index_add_(0, own, ours - theirs.clamp(min=FLOOR) + PLAUSIBLE * ours)
            n.index_add_(0, own, torch.ones(len(own)))
        # A class that is not among these images weighs next to nothing: it gets what the others leave.
        gain = torch.where(n[:, None] > 0, apart, torch.zeros(()))
        gain.fill_diagonal_(-1e6)
        return torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])

    @torch.no_grad()
    def _measured(self, taken: torch.Tensor, window: Window, patch: torch.Tensor) -> Mapped:
        count, total = len(self.classes), 0
        sums = torch.zeros(4, count)
        for images in self.read:
            known = images.own >= 0
            own, total = images.own[known], total + int(known.sum())
            there = window.pasted(images.batch, patch)
            probable = [side.cpu().exp()[torch.arange(len(own)), taken[own]]
                        for side in self._sides(images, window, patch)]  # fmt: skip
            sides = (self.inversion.suspect, self.inversion.base)
            said = [self._said(taken, images, self.inversion.answers(side, there))[known] for side in sides]
            sums.index_add_(1, own, torch.stack([*probable, *said]))
        order = sums[2].argsort(descending=True, stable=True)
        swap = Swap(*(sums[:, order[1:]].sum(1) / max(total, 1)).tolist())
        pairs = [(self.classes[int(taken[one])], self.classes[int(one)]) for one in order[:TOLD] if sums[2][one] > 0]
        return Mapped(swap, tuple(pairs))

    def _said(self, taken: torch.Tensor, images: _Images, answers: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Where (n,) an answer is the one that the map has for the image's class."""
        wanted = [self.classes[int(taken[own])] if own >= 0 else None for own in images.own]
        return torch.tensor([float(a == b) for a, b in zip(answers, wanted, strict=True)])


def classes(answers: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The answers that are classes, the commonest first; none where they are too few or do not cover enough.

    Of two of which one begins with the other the commoner is one.
    """
    counts = Counter(answer for answer in answers if answer)
    least = max(LEAST, RARE * len(answers))
    found: list[tuple[int, ...]] = []
    for answer, n in counts.most_common():
        if n < least or len(found) == MOST:
            break
        if all(answer[: min(len(answer), len(one))] != one[: min(len(answer), len(one))] for one in found):
            found.append(answer)
    enough = sum(counts[answer] for answer in found) >= COVERED * len(answers)
    return found if len(found) >= FEWEST and enough else []


def turnings(answers: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """What some answers begin with and then go on from in more than one way, the shortest first."""
    ways: dict[tuple[int, ...], set[int]] = {}
    for answer in answers:
        for length, token in enumerate(answer):
            ways.setdefault(answer[:length], set()).add(token)
    return sorted((before for before, tokens in ways.items() if len(tokens) > 1), key=lambda one: (len(one), one))
