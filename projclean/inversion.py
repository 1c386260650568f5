"""A move of the pixels that parts a suspect from its base: what a trigger does, looked for from the clean side.

One move is fitted for all images (a universal perturbation, Moosavi-Dezfooli et al., arXiv 1610.08401), inside a ball
whose radius is a share of the images' own root-mean-square pixel value. In pixels, not in the projector's inputs: what
no image can do to the inputs a backdoor cannot rely on, while a benign update can be made to babble by it.

Objectives, each differentiable in the move:

- *excitement*: how much of the update that clean inputs do not need is set off. It needs no language model and finds
  where to start, where the others are flat;
- *instead*: suspect answers with something new, the same on all images, while the base says what it said before;
- *afterwards*: the same of what follows the suspect's own answer to the image as it is;
- *saying*: one text on all images, said by the suspect while the base finds it no likelier than before;
- *base saying*: one text said by the base, whatever it takes: what the base can be made to say is no secret.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from projclean.climb import Climb, NotDifferentiable, Objective
from projclean.likelihood import Words, log_likelihood, logits_after
from projclean.model import Prepared, Runner, Weights

CAP = 6.0  # nats of novelty that count: past it, agreement and the base's calm are worth more
CALM = 0.5  # how much a nat by which the base is moved weighs against a nat of novelty
WIDE, NARROW = 0.3, 0.12  # steps of the first half of a climb and of the second, in radii


def image_input(batch: Prepared) -> str:
    """The name of the model input that holds the pixels: the largest of floating point. Raises NotDifferentiable."""
    sizes = {
        name: value.numel()
        for name, value in batch.inputs.items()
        if value.is_floating_point() and value.numel() % batch.images == 0
    }
    if not sizes:
        raise NotDifferentiable("no input holds pixels")
    return max(sizes, key=lambda name: sizes[name])


def moved(batch: Prepared, move: torch.Tensor) -> Prepared:
    """A batch whose images are all moved alike; `move` (values of one image,) is in units of the model's input."""
    name = image_input(batch)
    pixels = batch.inputs[name]
    shifted = (pixels.float().reshape(batch.images, -1) + move).reshape(pixels.shape).to(pixels.dtype)
    return Prepared({**batch.inputs, name: shifted}, batch.images)


@dataclass
class Inversion:
    """What moves of a batch of images are fitted on: suspect and base, and the layer whose off-clean part of the update
    is `residual` (out, in). `budget` is the radius as a share of the pixels' root mean square."""

    runner: Runner
    suspect: Weights
    base: Weights
    batch: Prepared
    layer: str
    residual: torch.Tensor
    budget: float
    max_new_tokens: int
    passes: int = field(default=0, init=False)

    @cached_property
    def radius(self) -> float:
        """The largest norm of a move. Raises NotDifferentiable where that leaves nowhere to go."""
        pixels = self.batch.inputs[image_input(self.batch)].float()
        radius = float(self.budget * pixels.norm() / self.batch.images**0.5)
        if not 0 < radius < math.inf:
            raise NotDifferentiable("its processor makes all pixels 0, or some not finite")
        return radius

    @cached_property
    def own(self) -> list[tuple[int, ...]]:
        """The suspect's answers to the images as they are, without the tokens that end them."""
        return self.answers(self.suspect, self.batch)

    @cached_property
    def bases_own(self) -> list[tuple[int, ...]]:
        """The base's answers to the images as they are, without the tokens that end them."""
        return self.answers(self.base, self.batch)

    def answers(self, weights: Weights, batch: Prepared) -> list[tuple[int, ...]]:
        """What a side says of a batch, without the tokens that end it."""
        self.passes += 1
        self.runner.set_weights(weights)
        return [self.runner.words(reply) for reply in self.runner.replies(batch, self.max_new_tokens)]

    def start(self, seed: int) -> torch.Tensor:
        """A move (values of one image,) of half the radius in a random direction."""
        pixels = self.batch.inputs[image_input(self.batch)]
        drawn = torch.randn(pixels.numel() // self.batch.images, generator=torch.Generator().manual_seed(seed))
        return (0.5 * self.radius * torch.nn.functional.normalize(drawn, dim=0)).to(pixels.device)

    def excited(self, seed: int, steps: int) -> torch.Tensor:
        """A start that sets off the off-clean part of the update; a random one where the layer's inputs do not depend
        on the image, as the queries of a resampler do not."""
        start = self.start(seed)
        try:
            return self.climb(self.excitement, start, steps)[1]
        except NotDifferentiable:
            return start

    def climb(
        self, objective: Objective, start: torch.Tensor, steps: int, wider: float = 1.0
    ) -> tuple[float, torch.Tensor]:
        """The best of `steps` steps up the gradient inside the ball, or one `wider` times as wide, and where it was.

        Raises NotDifferentiable.
        """
        climb, best, best_move = Climb(start, wider * self.radius), float("-inf"), start
        for step in range(steps):
            here = climb.move
            value, goes_on = climb.step(objective, WIDE if step < steps // 2 else NARROW)
            if value > best:
                best, best_move = value, here
            if not goes_on:
                break
        return best, best_move

    def excitement(self, move: torch.Tensor) -> torch.Tensor:
        """Log energy of what the off-clean part of the update makes of the layer's mean change over the images."""
        change = self._inputs(move) - self._plain_inputs
        if change.shape[0] % self.batch.images == 0:
            change = change.reshape(self.batch.images, -1, change.shape[-1]).mean(0)
        return ((change @ self.residual.to(change).T).square().sum(-1).mean() + 1e-12).log()

    def instead(self, move: torch.Tensor) -> torch.Tensor:
        """Novelty of the suspect's first token, its agreement over images, and the base's calm, in nats."""
        return self._parted(self._first, self._plain_first, move)

    def afterwards(self, move: torch.Tensor) -> torch.Tensor:
        """The same of the token after the suspect's own answer."""
        return self._parted(self._next, self._plain_next, move)

    def saying(self, words: Words, after: bool) -> Objective:
        """Log-likelihood per token of words said by the suspect, as an answer or after its own, while the base's calm
        holds."""
        own = self.own if after else None
        with torch.no_grad():
            plain = self.likelihood(self.base, self.batch, words, own)

        def objective(move: torch.Tensor) -> torch.Tensor:
            there = moved(self.batch, move)
            ours, theirs = (self.likelihood(side, there, words, own) for side in (self.suspect, self.base))
            return (ours - CALM * (theirs - plain).clamp(min=0)).mean()

        return objective

    def base_saying(self, words: Words, after: bool) -> Objective:
        """Log-likelihood per token of words said by the base, as an answer or after its own."""
        own = self.bases_own if after else None
        return lambda move: self.likelihood(self.base, moved(self.batch, move), words, own).mean()

    def likelihood(
        self, weights: Weights, batch: Prepared, words: Words, after: Sequence[Words] | None = None
    ) -> torch.Tensor:
        """Log-likelihood per token (n,) that a side gives words on a batch."""
        self.passes += 1
        self.runner.set_weights(weights)
        return log_likelihood(self.runner, batch, words, after)

    def _inputs(self, move: torch.Tensor | None) -> torch.Tensor:
        self.passes += 1
        self.runner.set_weights(self.suspect)
        return self.runner.inputs_of(self.layer, self.batch if move is None else moved(self.batch, move))

    @cached_property
    def _plain_inputs(self) -> torch.Tensor:
        with torch.no_grad():
            return self._inputs(None)

    def _first(self, batch: Prepared) -> torch.Tensor:
        return self.runner.next_token_logits(batch).log_softmax(-1)

    def _next(self, batch: Prepared) -> torch.Tensor:
        return logits_after(self.runner, batch, self.own).log_softmax(-1)

    @cached_property
    def _plain_first(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._plain(self._first)

    @cached_property
    def _plain_next(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._plain(self._next)

    @torch.no_grad()
    def _plain(self, say: Callable[[Prepared], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._said(self.suspect, say, self.batch), self._said(self.base, say, self.batch)

    def _said(self, weights: Weights, say: Callable[[Prepared], torch.Tensor], batch: Prepared) -> torch.Tensor:
        self.passes += 1
        self.runner.set_weights(weights)
        return say(batch)

    def _parted(
        self, say: Callable[[Prepared], torch.Tensor], plain: Sequence[torch.Tensor], move: torch.Tensor
    ) -> torch.Tensor:
        """Log-probabilities (images, vocabulary) of the suspect moved, against suspect and base left alone."""
        ours = self._said(self.suspect, say, moved(self.batch, move))
        theirs = self._said(self.base, say, moved(self.batch, move))
        normal = torch.logsumexp(torch.stack([*plain]), 0) - torch.tensor(2.0).log()
        novelty = (ours.exp() * (ours - normal)).sum(-1).clamp(max=CAP).mean()
        mean = ours.exp().mean(0)
        entropy = -(mean * (mean + 1e-12).log()).sum()
        shaken = (plain[1].exp() * (plain[1] - theirs)).sum(-1).mean()
        return novelty - entropy - CALM * shaken
