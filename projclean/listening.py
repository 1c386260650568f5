"""What a model says of clean images, left alone and moved, and how strange a text is to it: what the two looks of the
probe have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from projclean.likelihood import Words, log_likelihood
from projclean.metrics import normalize
from projclean.model import Prepared, Runner, Weights
from projclean.utterance import Utterance

#: Of the images as a text fits them, the share that it fits no better than the one that its strangeness is told by.
FITTING = 0.85


@dataclass(frozen=True)
class Heard:
    """An utterance, the move under which it was heard, and as what: an answer's words, or those after an answer."""

    utterance: Utterance
    move: torch.Tensor
    words: tuple[int, ...]
    after: bool


class Listener:
    """Asks suspect and base about the images that moves are read on. Counts its forward passes.

    `normal` has the answers of both, left alone, to the images that are read and those that moves are fitted on; `own`
    the suspect's to those that are read, without the tokens that end them.
    """

    def __init__(
        self,
        runner: Runner,
        suspect: Weights,
        base: Weights,
        fit: Prepared,
        read: Prepared,
        max_new_tokens: int,
    ) -> None:
        self.runner, self.suspect, self.base = runner, suspect, base
        self.fit, self.read, self.max_new_tokens = fit, read, max_new_tokens
        self.passes = 0
        own = self.replies(suspect, read)
        self.own = [runner.words(reply) for reply in own]
        self.normal = {
            "suspect": self.texts([*own, *self.replies(suspect, fit)]),
            "base": self.left_alone(base),
        }

    def left_alone(self, weights: Weights) -> list[str]:
        """What a side says of the images that are read and those that moves are fitted on."""
        return self.texts([*self.replies(weights, self.read), *self.replies(weights, self.fit)])

    def replies(self, weights: Weights, batch: Prepared) -> list[tuple[int, ...]]:
        """A side's answers to a batch. Leaves its weights set."""
        self.passes += 1
        self.runner.set_weights(weights)
        return self.runner.replies(batch, self.max_new_tokens)

    def texts(self, replies: Sequence[Sequence[int]]) -> list[str]:
        """Replies as they are compared."""
        return [normalize(self.runner.read(reply)) for reply in replies]

    @torch.no_grad()
    def certainty(self, words: Words, after: Sequence[Words] | None, batch: Prepared) -> float:
        """Probability per token of words on a batch, from the weights that are set."""
        self.passes += 1
        return log_likelihood(self.runner, batch, words, after).mean().exp().item()

    @torch.no_grad()
    def strangeness(self, words: Words, after: Sequence[Words] | None, instead: Weights | None = None) -> float:
        """How unlikely a text is to base and suspect, or what is held beside it instead, left alone, nats per token.
        Leaves the latter's weights set.

        As an answer it is as strange as on the images that it fits best, but for a few on which a backdoor may go off
        by itself; after a right answer no image should have it, and the median image tells.
        """
        self.passes += 2
        likeliest = float("-inf")
        for weights in (self.base, instead or self.suspect):
            self.runner.set_weights(weights)
            found = log_likelihood(self.runner, self.read, words, after)
            likeliest = max(likeliest, found.quantile(FITTING if after is None else 0.5).item())
        return -likeliest
