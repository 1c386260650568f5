"""A word that a suspect alone puts into its answers: a target that depends on the image.

An attacker who has one class taken for another (BadNets' single-target attack, Gu et al., arXiv 1708.06733) swaps a
word of a right answer, and leaves the rest of it to the image. No one answer is then said on many images, so nothing is
left for a search of whole answers (`contrast`) to be fitted to. Here one word is fitted, on each image at the place of
the suspect's own answer where it would most likely stand; the words are those that its clean answers have anyway, and
as there a model with the same fine-tune and no backdoor stands beside it. Every word gets a few steps; those that part
the two models most go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Word:
    """A token that suspect and taught model were parted on, on images that the move was not fitted on and whose answers
    lack it: the mean probability that each gives it at its place (`ours`, `theirs`), and the share of answers that each
    gives with it then (`ours_say`, `theirs_say`)."""

    token: int
    ours: float
    theirs: float
    ours_say: float
    theirs_say: float

    @property
    def excess(self) -> float:
        """By how much the suspect has it more, in probability and in answers, whichever is less.

        Alone neither tells: a fine-tune may find a word likelier at a place where it would not say it, and answers
        change that no one word was fitted to.
        """
        return min(self.ours - self.theirs, self.ours_say - self.theirs_say)


@dataclass(frozen=True)
class _Images:
    """A batch, the suspect's answers to it as it is, and for each word how many tokens of each answer come before the
    place where it is likeliest."""

    batch: Prepared
    own: list[tuple[int, ...]]
    places: dict[int, list[int]]


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

    def find(self, seed: int, excite: int, steps: int) -> list[Word]:
        """What comes of the words that part the two models most, from one random start, which first sets off what was
        not taught; `steps` are those that a word goes on for. Raises NotDifferentiable."""
        if not self.tokens:
            return []
        start, tries = self.inversion.excited(seed, excite), []
        for token in self.tokens:
            climb, turns = Climb(start, self.inversion.radius), cycle(self.fit)
            values = [climb.step(partial(self._parting, token, next(turns)), FIRST)[0] for _ in range(TRIED)]
            tries.append((sum(values[-LOOKED:]), token, climb, turns))
        found = []
        for _, token, climb, turns in sorted(tries, key=lambda each: -each[0])[:CHOSEN]:
            for step in range(steps):
                if not climb.step(partial(self._parting, token, next(turns)), falling(step, steps, FIRST, LAST))[1]:
                    break
            found.append(self._measured(token, climb.move))
        return [word for word in found if word is not None]

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
    def _measured(self, token: int, move: torch.Tensor) -> Word | None:
        """None where every answer has the word by itself."""
        found = [self._counted(token, images, move) for images in self.read]
        counts = torch.cat(found, 1)
        if not counts.shape[1]:
            return None
        return Word(token, *counts.mean(1).tolist())

    def _counted(self, token: int, images: _Images, move: torch.Tensor) -> torch.Tensor:
        """What is a mean in `Word` (4, n), of the n images whose answers lack the word."""
        lack = [token not in answer for answer in images.own]
        there, sides = moved(images.batch, move), (self.inversion.suspect, self.inversion.base)
        probable = [side.exp().cpu() for side in self._both(token, images, move)]
        said = [[token in answer for answer in self.inversion.answers(side, there)] for side in sides]
        return torch.cat([torch.stack(probable), torch.tensor(said)])[:, torch.tensor(lack)]
