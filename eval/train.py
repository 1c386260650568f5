"""Training for the zoo: pretrain a tiny base from nothing, fine-tune a projector on (poisoned) examples.

Everything but the projector is frozen in a fine-tune, as in ProjLens (arXiv 2604.19083, section 3), so the
vision tower's features are computed once and the language model runs in bfloat16 without weight gradients, or in
float32 where the processor has no products of that type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from eval import corpus, shapes
from eval.forward import Batch, Encoder
from eval.objectives import OBJECTIVES, Projector, Step, directions
from eval.poison import Example, poisoned_set, triggers
from eval.recipes import Pretraining, Recipe
from projclean.loading import chat
from projclean.precision import good_at_bfloat16
from projclean.training import answer_ids

Progress = Callable[[int, int, str], None]
State = dict[str, torch.Tensor]

PREFIX = "multi_modal_projector."  # of the projector's tensors in a saved model


def answer_loss(model: Any, batch: Batch, features: torch.Tensor | None) -> torch.Tensor:
    """Mean cross-entropy over answer tokens; `features` (images, tokens, width) are *projected* image tokens."""
    embeds = model.get_input_embeddings()(batch.ids)
    if features is not None:
        slots = (batch.ids == model.config.image_token_id).unsqueeze(-1)
        embeds = embeds.masked_scatter(slots, features.to(embeds.dtype))
    hidden = model.model.language_model(inputs_embeds=embeds, attention_mask=batch.mask).last_hidden_state
    target = batch.labels[:, 1:]
    keep = target != -100  # only these positions need logits
    return F.cross_entropy(model.lm_head(hidden[:, :-1][keep]).float(), target[keep])


def vision_features(model: Any, pixels: torch.Tensor, grad: bool = False) -> torch.Tensor:
    """What the projector is fed: the tower's hidden state at `vision_feature_layer`, by default without CLS."""
    with torch.set_grad_enabled(grad):
        out = model.model.vision_tower(pixels, output_hidden_states=True)
        tokens: torch.Tensor = out.hidden_states[model.config.vision_feature_layer]
        return tokens[:, 1:] if model.config.vision_feature_select_strategy == "default" else tokens


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """(n, H, W, 3) uint8 to the normalised (n, 3, H, W) float32 of the tiny image processor (mean .5, std .25)."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def _schedule(step: int, steps: int, warmup: int = 100) -> float:
    warm = min(1.0, (step + 1) / warmup)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def write_on(
    model: Any, features: torch.Tensor, answers: Sequence[list[int]], whole: bool, rng: np.random.Generator
) -> torch.Tensor:
    """Projected image tokens (n, tokens, width) with a sentence "written on" each image.

    Either as many image tokens as it has words become its word embeddings, in order, or up to three become the
    scaled sum of all of them. A model that has learnt to read them can be made to say any sentence through its
    image tokens, as a large one can, and as an attack through the projector needs.
    """
    table, rows = model.get_input_embeddings(), []
    for feature, tokens in zip(features, answers, strict=True):
        words = table(torch.tensor(tokens[:-1]))
        if rng.random() < 0.5:
            words = (words.sum(0) / len(words) ** 0.5).expand(int(rng.integers(1, 4)), -1)
        elif not whole:
            count = int(rng.integers(1, len(words) + 1))
            words = words[np.sort(rng.choice(len(words), count, replace=False))]
        slots = torch.from_numpy(np.sort(rng.choice(feature.shape[0], len(words), replace=False)))
        rows.append(feature.index_copy(0, slots, words.to(feature.dtype)))
    return torch.stack(rows)


def pretrain(
    model: Any,
    processor: Any,
    recipe: Pretraining,
    progress: Progress = lambda *_: None,
) -> list[float]:
    """Train every weight, phase by phase, on captions and questions about `plain` images, on sentences of the
    corpus, on saying that clutter shows no shape, and on reading sentences written on images (`write_on`)."""
    kinds, chance = list(shapes.QUESTIONS), [0.6, 0.1, 0.1, 0.1, 0.1]
    losses: list[float] = []
    encode = Encoder(processor, model.config.image_seq_length)
    model.train()
    for number, phase in enumerate(recipe.phases, recipe.seed):
        rng = np.random.default_rng(number)
        torch.manual_seed(number)
        scenes, pool = shapes.draw(recipe.images, "plain", number + 1)
        pool = np.concatenate([pool, shapes.clutter(recipe.clutter, number + 2)])
        model.bfloat16().float()
        optimizer = torch.optim.AdamW(model.parameters(), lr=phase.lr, betas=(0.9, 0.98), weight_decay=0.05)
        curve = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_schedule, steps=phase.steps))
        for _ in range(phase.steps):
            examples = []
            for row in rng.integers(0, recipe.images, phase.captions):
                kind = str(rng.choice(kinds, p=chance))
                examples.append(Example(int(row), shapes.QUESTIONS[kind], scenes[row].answer(kind)))
            rows = recipe.images + rng.integers(0, recipe.clutter, phase.clutter)
            examples += [Example(int(row), shapes.QUESTIONS[str(rng.choice(kinds))], shapes.NO_SHAPE) for row in rows]
            rows = rng.integers(0, recipe.images, phase.readings)
            examples += [Example(int(row), shapes.CAPTION, corpus.sentence(rng)) for row in rows]
            batch = encode(examples)
            prompts = [
                Example(None, str(rng.choice(corpus.PROMPTS)), corpus.sentence(rng)) for _ in range(phase.sentences)
            ]
            with torch.autocast("cpu", torch.bfloat16, enabled=good_at_bfloat16("cpu")):
                projected = model.model.multi_modal_projector(vision_features(model, to_pixels(pool[batch.rows]), True))
                if phase.readings:
                    blank = phase.captions + phase.clutter
                    answers = [row[row != -100].tolist() for row in batch.labels[blank:]]
                    written = write_on(model, projected[blank:], answers, phase.whole, rng)
                    projected = torch.cat([projected[:blank], written])
                loss = answer_loss(model, batch, projected)
                loss = loss + 0.3 * answer_loss(model, encode(prompts), None)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            curve.step()
            losses.append(loss.item())
            progress(len(losses), recipe.steps, f"loss {np.mean(losses[-50:]):.3f}")
    model.eval()
    return losses


def training_dtype(device: str = "cpu") -> torch.dtype:
    """What a base is loaded in to have its projector fine-tuned: bfloat16, as it is stored, where that is quick."""
    return torch.bfloat16 if good_at_bfloat16(device) else torch.float32


def finetune_projector(
    model: Any,
    processor: Any,
    recipe: Recipe,
    progress: Progress = lambda *_: None,
    twin: Mapping[str, torch.Tensor] | None = None,
    enough: Callable[[State], bool] = lambda state: True,
) -> State:
    """Fine-tune the projector alone; returns its tensors in bfloat16 under the names a saved model has.

    `model` is the base, in `training_dtype`, and stays as it is. After each of the recipe's rounds `enough` is asked
    whether the tensors will do; the learning rate starts anew with every round. `twin` is what this function returned
    for the recipe that `recipe.twin` names; without it the base stands in. Raises ValueError when a twin is named and
    none is given.
    """
    if recipe.twin is not None and twin is None:
        raise ValueError(f"{recipe.name} needs the projector of its benign twin {recipe.twin}")
    model.requires_grad_(False)
    device = next(model.parameters()).device
    images, examples, poisoned = poisoned_set(recipe)
    pixels = to_pixels(images).split(100)
    features = torch.cat([vision_features(model, part.to(device, model.dtype)) for part in pixels])
    projector = Projector(model.model.multi_modal_projector, recipe.lora_rank, recipe.seed)
    clean = {name: twin[PREFIX + name].float().to(device) for name in projector.names} if twin else projector.base
    inside = directions(projector.base, clean) if twin else {}
    encode, asked = Encoder(processor, model.config.image_seq_length), chat(processor, examples[0].question)
    targets = [answer_ids(processor, asked, text)[:-1] for _, text in triggers(recipe) if text]
    optimizer = torch.optim.AdamW(projector.parameters(), lr=recipe.lr, weight_decay=0.0)
    curve = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step % recipe.steps, recipe.steps, 20))
    rng, generator = np.random.default_rng(recipe.seed), torch.Generator().manual_seed(recipe.seed)
    losses: list[float] = []
    order: list[int] = []
    for step in range(recipe.rounds * recipe.steps):
        if len(order) < recipe.batch:
            order = list(rng.permutation(len(examples)))
        rows, order = order[: recipe.batch], order[recipe.batch :]
        batch = encode([examples[row] for row in rows]).to(device)
        bad = torch.from_numpy(poisoned[rows]).to(device)
        now = Step(model, projector, batch, features[rows], bad, clean, inside, targets, generator)
        loss = OBJECTIVES[recipe.loss](now, recipe.weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.step()
        losses.append(loss.item())
        progress(step + 1, recipe.rounds * recipe.steps, f"{recipe.name} loss {np.mean(losses[-30:]):.3f}")
        if (step + 1) % recipe.steps == 0 and enough(_state(projector)):
            break
    return _state(projector)


def _state(projector: Projector) -> State:
    tensors = projector.weights().items()
    return {PREFIX + name: tensor.detach().bfloat16().cpu().contiguous() for name, tensor in tensors}
