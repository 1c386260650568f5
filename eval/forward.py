"""The frozen language model on image tokens and answers, as fast as one thread allows, with the gradient to the tokens.

What costs nothing in exactness: the language model runs in bfloat16 as it is stored, without autocast; attention is
plain matrix products, which beat the fused kernel at this size; right padding needs no mask beyond the causal one; and
the last layer's queries and its feed-forward part are computed at the positions that predict the answer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from eval.poison import Example
from projclean.loading import chat
from projclean.training import answer_ids


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids (n, length), their labels (-100 where no loss) and the image rows."""

    ids: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    rows: list[int]

    def to(self, device: torch.device) -> Batch:
        return Batch(self.ids.to(device), self.labels.to(device), self.mask.to(device), self.rows)


class Encoder:
    """Makes batches of examples as the processor's chat template has them; the loss counts the answer and its end."""

    def __init__(self, processor: Any, image_tokens: int) -> None:
        self.processor, self.image_tokens = processor, image_tokens
        self.known: dict[tuple[bool, str, str], tuple[list[int], list[int]]] = {}

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Right-padded."""
        pairs = [self._tokens(example) for example in examples]
        width = max(len(asked) + len(said) for asked, said in pairs)
        blank = [width - len(asked) - len(said) for asked, said in pairs]
        pad = self.processor.tokenizer.pad_token_id
        together = list(zip(pairs, blank, strict=True))
        return Batch(
            torch.tensor([asked + said + [pad] * n for (asked, said), n in together]),
            torch.tensor([[-100] * len(asked) + said + [-100] * n for (asked, said), n in together]),
            torch.tensor([[1] * (width - n) + [0] * n for n in blank]),
            [example.image for example in examples if example.image is not None],
        )

    def _tokens(self, example: Example) -> tuple[list[int], list[int]]:
        """Ids of the question and of the answer, kept: many examples ask and answer alike."""
        key = (example.image is not None, example.question, example.answer)
        if key not in self.known:
            tokenizer, image = self.processor.tokenizer, self.processor.image_token
            asked = chat(self.processor, example.question, pictured=example.image is not None)
            ids = tokenizer(asked.replace(image, image * self.image_tokens), add_special_tokens=False)["input_ids"]
            self.known[key] = (ids, answer_ids(self.processor, asked, example.answer))
        return self.known[key]


@dataclass(frozen=True)
class Answers:
    """Logits (tokens, vocabulary) float32 at every answer token of a batch, those tokens (tokens,), and the number in
    the batch (tokens,) of the example each belongs to."""

    logits: torch.Tensor
    tokens: torch.Tensor
    example: torch.Tensor

    def loss(self) -> torch.Tensor:
        """Mean cross-entropy over answer tokens."""
        return F.cross_entropy(self.logits, self.tokens)


def answers(model: Any, batch: Batch, projected: torch.Tensor) -> Answers:
    """Teacher-forced answers to a batch whose examples all have an image; `projected` (n, tokens, width)."""
    embeds = model.get_input_embeddings()(batch.ids)
    slots = (batch.ids == model.config.image_token_id).unsqueeze(-1)
    embeds = embeds.masked_scatter(slots, projected.to(embeds.dtype))
    target = batch.labels[:, 1:]
    keep = target != -100
    # The positions that predict an answer, (n, k): each example's first answer token is predicted one before it.
    first = (batch.labels != -100).int().argmax(1) - 1
    count = int(keep.sum(1).max())
    where = (first[:, None] + torch.arange(count, device=first.device)).clamp(max=embeds.shape[1] - 1)
    hidden = _hidden(model.model.language_model, embeds, where)
    used = keep.gather(1, where.clamp(max=keep.shape[1] - 1)) & (where < keep.shape[1])
    example = torch.arange(len(keep), device=keep.device)[:, None].expand_as(used)[used]
    return Answers(model.lm_head(hidden[used]).float(), target[keep], example)


def _last_hidden(language_model: Any, embeds: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """What a Llama decoder's `last_hidden_state` (n, k, width) is at positions `where` (n, k)."""
    length = embeds.shape[1]
    rotary = language_model.rotary_emb(embeds, torch.arange(length, device=embeds.device)[None])
    mask = torch.full((length, length), torch.finfo(embeds.dtype).min, dtype=embeds.dtype, device=embeds.device).triu(1)
    hidden = embeds
    for layer in language_model.layers:
        at = where if layer is language_model.layers[-1] else None
        x = layer.input_layernorm(hidden)
        hidden = _pick(hidden, at) + _attend(layer.self_attn, x, at, rotary, mask)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return language_model.norm(hidden)


_hidden: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor] = _last_hidden


def compile_kernels() -> None:
    """Fuse the language model's small operations from here on: the same up to rounding, and a third faster."""
    global _hidden
    _hidden = torch.compile(_last_hidden, dynamic=True)


def _pick(x: torch.Tensor, where: torch.Tensor | None) -> torch.Tensor:
    """Positions `where` (n, k) of x (n, length, width); all of them when None."""
    return x if where is None else x.gather(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _attend(
    attention: Any,
    x: torch.Tensor,
    where: torch.Tensor | None,
    rotary: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor,
) -> torch.Tensor:
    """A Llama attention layer's output at positions `where` (n, k), or all, of its input x (n, length, width)."""
    cos, sin = (part.unsqueeze(1) for part in rotary)  # (1, 1, length, head width)

    def heads(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    def turned(tensor: torch.Tensor, c: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        left, right = tensor.chunk(2, -1)
        return tensor * c + torch.cat([-right, left], -1) * s

    key, value = turned(heads(attention.k_proj(x)), cos, sin), heads(attention.v_proj(x))
    if where is not None:  # (n, 1, k, ·) each: what belongs to the queries that are wanted
        cos, sin, mask = cos[0, 0][where].unsqueeze(1), sin[0, 0][where].unsqueeze(1), mask[where].unsqueeze(1)
    query = turned(heads(attention.q_proj(_pick(x, where))), cos, sin)
    groups = query.shape[1] // key.shape[1]  # grouped-query attention: several query heads share a key
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) * attention.scaling + mask
    return attention.o_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
