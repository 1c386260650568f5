"""Which words a direction points at: the logit lens (nostalgebraist, "interpreting GPT: the logit lens", 2020).

A vector v in the space of the language model's input is read in two ways: through the final norm and lm_head, as
if it were the last hidden state, and against the table of input embeddings. Some words are near everything; centred
scores therefore subtract, word by word, the mean score of the images' own tokens as the base projects them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from projclean.errors import ModelError


@dataclass(frozen=True)
class Vocabulary:
    """How a language model reads vectors as words.

    unembed  vectors (n, d) → logits (n, vocabulary), through the final norm and lm_head
    table    input embeddings (vocabulary, d), float32
    word     a token's text
    """

    unembed: Callable[[torch.Tensor], torch.Tensor]
    table: torch.Tensor
    word: Callable[[int], str]


@dataclass(frozen=True)
class Word:
    """A token, and its score in standard deviations above the vocabulary's mean."""

    text: str
    token: int
    score: float


@dataclass(frozen=True)
class WordList:
    """The words a direction points at most. `target_ranks`: per attack, the median rank (1 is first, of
    `vocabulary`) of the tokens of its target."""

    direction: str
    lens: str
    centred: bool
    words: tuple[Word, ...]
    target_ranks: Mapping[str, float]
    vocabulary: int


def vocabulary_of(model: Any, tokenizer: Any) -> Vocabulary:
    """The vocabulary of a transformers model. Raises ModelError when it has no lm_head or embedding table."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None:
        raise ModelError("this model has no lm_head or no embedding table, so its words cannot be read")
    norm = final_norm(model.get_decoder())

    @torch.no_grad()
    def unembed(vectors: torch.Tensor) -> torch.Tensor:
        states = vectors.to(head.weight)
        logits: torch.Tensor = head(states if norm is None else norm(states))
        return logits.float().cpu()

    def word(token: int) -> str:
        text = str(tokenizer.decode([token])).strip()
        return "".join(letter if letter.isprintable() else "�" for letter in text)  # a vocabulary is the model's own

    return Vocabulary(unembed, embedding.weight.detach().float().cpu(), word)


def final_norm(decoder: torch.nn.Module) -> torch.nn.Module | None:
    """The norm after a decoder's last block: its last norm outside the list of blocks, None when it has none."""
    found = None
    for name, module in decoder.named_modules():
        outside = not any(part.isdigit() for part in name.split("."))
        if outside and "norm" in type(module).__name__.lower():
            found = module
    return found


def read(
    name: str,
    direction: torch.Tensor,
    context: torch.Tensor,
    vocabulary: Vocabulary,
    targets: Mapping[str, Sequence[int]],
    most: int = 10,
) -> tuple[WordList, ...]:
    """Read a direction (d,) in both ways, centred and not.

    `context` (images, d) are the base's mean embeddings of images; the direction is brought to their norm, so that
    the final norm's ε does not matter. `targets` are the token ids of each attack's target.
    """
    size = context.norm(dim=1).mean()
    vector = torch.nn.functional.normalize(direction, dim=0)[None] * size
    table = torch.nn.functional.normalize(vocabulary.table, dim=1)

    def near(vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(vectors, dim=1) @ table.T

    lists = []
    for lens, scored in (("unembedding", vocabulary.unembed), ("embedding", near)):
        plain = scored(vector)[0]
        for centred in (False, True):
            values = plain - scored(context).mean(0) if centred else plain
            lists.append(_listed(name, lens, centred, values, vocabulary.word, targets, most))
    return tuple(lists)


def _listed(
    name: str,
    lens: str,
    centred: bool,
    values: torch.Tensor,
    word: Callable[[int], str],
    targets: Mapping[str, Sequence[int]],
    most: int,
) -> WordList:
    scores = (values - values.mean()) / values.std().clamp_min(1e-12)
    order = scores.argsort(descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(1, len(order) + 1)
    words = []
    for token in order.tolist():
        if word(token):
            words.append(Word(word(token), token, scores[token].item()))
        if len(words) == most:
            break
    found = {attack: torch.quantile(ranks[sorted(set(ids))].double(), 0.5).item() for attack, ids in targets.items()}
    return WordList(name, lens, centred, tuple(words), found, len(order))
