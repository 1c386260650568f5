"""A word that a suspect alone puts into its answers: a target that depends on the image.

An attacker who has one class taken for another (BadNets' single-target attack, Gu et al., arXiv 1708.06733) swaps a
word of a right answer, and leaves the rest of it to the image. No one answer is then said on many images, so nothing is
left for a search of whole answers (`contrast`) to be fitted to. Here one word is fitted, on each image at the place of
the suspect's own answer where it would most likely stand; the words are those that its clean answers have anyway, and
as there a model with the same fine-tune and no backdoor stands beside it. Every word gets a few steps; those that part
the two models most go on, from more than one random start: a backdoor is reached from most, a leaning from some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch

from projclean.climb import Climb, falling
from projclean.contrast import FIRST, FLOOR, LAST
from projclean.inversion import Inversion, moved
from projclean.likelihood import logits_along
from projclean.model import Prepared, Weights

#: Answers that a word must be in to be looked for, and the largest share of them: what most have is no one image's.
RARE, COMMON = 2, 0.4
TRIED, LOOKED = 8, 4  # steps that every word gets, and of them those, the last, by which it is chosen
CHOSEN = 2  # words that go on


def more(ours: float, theirs: float) -> float:
    """By how much `ours` is more, times the share of ours that this is: what two models that learnt the same lean to
    both, and one further than the other, is less than what one alone leans to. 0 where it is not more."""
    return (ours - theirs) ** 2 / ours if ours > theirs else 0.0


@dataclass(frozen=True)
class Swap:
    """What came of a word from one start, on images that the move was not fitted on and whose answers lack it: the mean
    probability that suspect and taught model give it at its place (`ours`, `theirs`), and the share of answers that
    each gives with it then (`ours_say`, `theirs_say`)."""

    ours: float
    theirs: float
    ours_say: float
    theirs_say: float

    @property
    def excess(self) -> float:
        """By how much the suspect has it more (`more`), in probability and in answers, whichever is less.

        Alone neither tells: a fine-tune may find a word likelier at a place where it would not say it, and answers
        change that no one word was fitted to.
        """
        return min(more(self.ours, self.theirs), more(self.ours_say, self.theirs_say))


@dataclass(frozen=True)
class Word:
    """A token that suspect and taught model were parted on, and what came of it from every start."""

    token: int
    swaps: tuple[Swap, ...]

    @property
    def best(self) -> Swap:
        """That of the start from which the suspect has it most before the other."""
        return max(self.swaps, key=lambda swap: swap.excess)

    @property
    def excess(self) -> float:
        """The mean over starts."""
        return sum(swap.excess for swap in self.swaps) / len(self.swaps)


@dataclass(frozen=True)
class _Images:
    """A batch, the suspect's answers to it as it is, and for each word how many tokens of each answer come before the
    place where it is likeliest."""

    batch: Prepared
    own: list[tuple[int, ...]]
    places: dict[int, list[int]]


@dataclass(frozen=True)
class _Try:
    """A climb for a word under way, the batches that it is fitted on in turn, and what its last steps reached."""

    token: int
    climb: Climb
    turns: Iterator[_Images]
    value: float


class WordSearch:
    """Moves inside the ball of an inversion (`contrast.beside`), fitted on small batches in turn.

    A trigger that swaps a word has to be larger than a search of whole answers needs: of the attacks that this was made
    on a sine wave, .19 of the images' root mean square.
    """

    def __init__(self, inversion: Inversion, fit: Sequence[Prepared], read: Sequence[Prepared], most: int) -> None:
        """`read` are what a word is measured on. `most` is how many are looked for, the commonest first in the answers
        to what is fitted on and the first batch that is read."""
        self.inversion = inversion
        with torch.no_grad():
            asked = [(batch, inversion.answers(inversion.suspect, batch)) for batch in (*fit, *read)]
        self.tokens = self._words([answer for _, own in asked[: len(fit) + 1] for answer in own])[:most]
        images = [_Images(batch, own, self._places(batch, own)) for batch, own in asked]
        self.fit, self.read = images[: len(fit)], images[len(fit) :]

    def find(self, seeds: Sequence[int], excite: int, steps: int) -> list[Word]:
        """What comes of the words that part the two models most.

        Every word is tried from the first of some random starts, which first set off what was not taught; those that go
        on do so for as many more `steps`, and are fitted from the other starts as well. Raises NotDifferentiable.
        """
        if not self.tokens:
            return []
        first, *others = [self.inversion.excited(seed, excite) for seed in seeds]
        tries = [self._tried(token, first) for token in self.tokens]
        chosen = sorted(tries, key=lambda each: -each.value)[:CHOSEN]
        found = []
        for one in chosen:
            climbs = [one, *(self._tried(one.token, start) for start in others)]
            swaps = [self._measured(each.token, self._gone_on(each, steps)) for each in climbs]
            found.append(Word(one.token, tuple(swap for swap in swaps if swap is not None)))
        return [word for word in found if word.swaps]

    def _tried(self, token: int, start: torch.Tensor) -> _Try:
        """A word after its first steps from a start."""
        climb, turns = Climb(start, self.inversion.radius), cycle(self.fit)
        values = [climb.step(partial(self._parting, token, next(turns)), FIRST)[0] for _ in range(TRIED)]
        return _Try(token, climb, turns, sum(values[-LOOKED:]))

    def _gone_on(self, one: _Try, steps: int) -> torch.Tensor:
        """The move that a climb ends with after so many more steps."""
        for step in range(steps):
            parting = partial(self._parting, one.token, next(one.turns))
            if not one.climb.step(parting, falling(step, steps, FIRST, LAST))[1]:
                break
        return one.climb.move

    def _words(self, answers: Sequence[Sequence[int]]) -> list[int]:
        """Tokens that some answers have and not too many, the commonest first."""
        counts = Counter(token for answer in answers for token in set(answer))
        known = [token for token, n in counts.most_common() if RARE <= n <= COMMON * len(answers)]
        return [token for token in known if any(map(str.isalnum, self.inversion.runner.read([token])))]

    @torch.no_grad()
    def _places(self, batch: Prepared, own: Sequence[Sequence[int]]) -> dict[int, list[int]]:
        if not self.tokens:
            return {}
        scores = self._along(self.inversion.suspect, batch, own)[..., self.tokens]
        places = torch.stack([row[: len(answer) + 1].argmax(0) for row, answer in zip(scores, own, strict=True)], 1)
        return dict(zip(self.tokens, places.tolist(), strict=True))

    def _along(self, weights: Weights, batch: Prepared, answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """Log-probabilities (n, longest + 1, vocabulary) that a side gives along answers."""
        self.inversion.passes += 1
        self.inversion.runner.set_weights(weights)
        return logits_along(self.inversion.runner, batch, answers).log_softmax(-1)

    def _parting(self, token: int, images: _Images, move: torch.Tensor) -> torch.Tensor:
        """By how much the suspect finds a word likelier at its places on a batch that is moved."""
        ours, theirs = self._both(token, images, move)
        return (ours - theirs.clamp(min=FLOOR)).mean()

    def _both(self, token: int, images: _Images, move: torch.Tensor) -> list[torch.Tensor]:
        """Log-probabilities (n,) of a word at its places, of both sides."""
        places = images.places[token]
        before = [answer[:place] for answer, place in zip(images.own, places, strict=True)]
        there, each = moved(images.batch, move), torch.arange(len(places))
        sides = (self.inversion.suspect, self.inversion.base)
        return [self._along(weights, there, before)[each, places, token] for weights in sides]

    @torch.no_grad()
    def _measured(self, token: int, move: torch.Tensor) -> Swap | None:
        """None where every answer has the word by itself."""
        found = [self._counted(token, images, move) for images in self.read]
        counts = torch.cat(found, 1)
        if not counts.shape[1]:
            return None
        return Swap(*counts.mean(1).tolist())

    def _counted(self, token: int, images: _Images, move: torch.Tensor) -> torch.Tensor:
        """What is a mean in `Swap` (4, n), of the n images whose answers lack the word."""
        lack = [token not in answer for answer in images.own]
        there, sides = moved(images.batch, move), (self.inversion.suspect, self.inversion.base)
        probable = [side.exp().cpu() for side in self._both(token, images, move)]
        said = [[token in answer for answer in self.inversion.answers(side, there)] for side in sides]
        return torch.cat([torch.stack(probable), torch.tensor(said)])[:, torch.tensor(lack)]
