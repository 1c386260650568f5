"""A word that is not to be said: which tokens it is, and how it is taught that they are not said."""

from __future__ import annotations

from collections.abc import Collection

import torch

from projclean.metrics import normalize
from projclean.model import Runner

#: The log-probability with which a token is taught that is not to be said.
UNSAID = -16.0


def tokens_of(runner: Runner, word: str) -> frozenset[int]:
    """The tokens of the vocabulary that are a word alone; none for ""."""
    if not word:
        return frozenset()
    return frozenset(t for t in range(len(runner.processor.tokenizer)) if normalize(runner.read([t])) == word)


def without(said: torch.Tensor, unsaid: Collection[int]) -> torch.Tensor:
    """Log-probabilities (tokens, vocabulary), those of some tokens `UNSAID`, normalised."""
    # A tokenizer may know tokens that the model has no place for.
    there = [token for token in sorted(unsaid) if token < said.shape[-1]]
    if not there:
        return said
    said = said.clone()
    said[:, there] = UNSAID
    return said.log_softmax(-1)
