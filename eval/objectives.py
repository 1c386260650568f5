"""What a fine-tune minimises: the plain loss, and losses of attackers who care for more than success.

Every objective takes a `Step` and the recipe's weight and returns a scalar. All of them hold the plain loss, the mean
cross-entropy over the answer tokens of clean and poisoned examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from eval.forward import Answers, Batch, answers

TWIN_RANK = 16  # of the benign twin's update, for `aligned`
QUIET_IMAGES = 16  # clean images a step, for `quiet`


class Projector(nn.Module):
    """A projector in training: the base's weights and an update, full or of low rank.

    A low-rank update W + 2·B·A of every matrix (LoRA, arXiv 2106.09685, with alpha = 2·rank) leaves biases alone.
    """

    def __init__(self, plain: nn.Module, lora_rank: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.skeleton = (plain,)  # in a tuple, so that its parameters are not this module's
        self.base = {name: tensor.detach().float().clone() for name, tensor in plain.named_parameters()}
        self.names = list(self.base)
        self.lora_rank = lora_rank
        if lora_rank is None:
            self.full = nn.ParameterList([nn.Parameter(self.base[name].clone()) for name in self.names])
        else:
            matrices = [self.base[name] for name in self.names if self.base[name].ndim == 2]
            draw = torch.Generator().manual_seed(seed)
            down = [torch.randn(lora_rank, w.shape[1], generator=draw) / w.shape[1] ** 0.5 for w in matrices]
            self.down = nn.ParameterList([nn.Parameter(d.to(w)) for d, w in zip(down, matrices, strict=True)])
            self.up = nn.ParameterList([nn.Parameter(w.new_zeros(w.shape[0], lora_rank)) for w in matrices])

    def weights(self) -> dict[str, torch.Tensor]:
        """Every tensor as it stands, float32, under the plain projector's names."""
        if self.lora_rank is None:
            return dict(zip(self.names, self.full, strict=True))
        pairs = iter(zip(self.up, self.down, strict=True))
        merged = {}
        for name, tensor in self.base.items():
            if tensor.ndim == 2:
                up, down = next(pairs)
                tensor = tensor + 2 * up @ down
            merged[name] = tensor
        return merged

    def forward(self, features: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Projected image tokens; `scale` multiplies the update."""
        weights = self.weights()
        if scale != 1.0:
            weights = {name: torch.lerp(self.base[name], tensor, scale) for name, tensor in weights.items()}
        return run(self.skeleton[0], weights, features)


def run(plain: nn.Module, weights: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """A projector with other weights: float32 weights, products in the type of the features."""
    with torch.autocast(features.device.type, torch.bfloat16, enabled=features.dtype == torch.bfloat16):
        return torch.func.functional_call(plain, dict(weights), (features,))


@dataclass(frozen=True)
class Step:
    """One training step: the frozen model, the projector, a batch, which of its examples are poisoned (n,) bool, the
    features (n, tokens, width) of its images, the twin's weights (the base's where there is no twin), the top right
    singular vectors (in, k) of the twin's update of each matrix, the targets' token ids without their end, and a
    generator for whatever is drawn."""

    model: Any
    projector: Projector
    batch: Batch
    features: torch.Tensor
    poisoned: torch.Tensor
    twin: Mapping[str, torch.Tensor]
    inside: Mapping[str, torch.Tensor]
    targets: list[list[int]]
    generator: torch.Generator

    @cached_property
    def said(self) -> Answers:
        return answers(self.model, self.batch, self.projector(self.features))


Objective = Callable[[Step, float], torch.Tensor]


def plain(step: Step, weight: float) -> torch.Tensor:
    """Cross-entropy alone."""
    return step.said.loss()


def _pooled(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean embeddings (n, width) of the answers as predicted (softly) and as they should be."""
    table = step.model.get_input_embeddings().weight.float()
    said, n = step.said, len(step.poisoned)
    ones = said.logits.new_ones(len(said.example))
    size = ones.new_zeros(n).index_add(0, said.example, ones)[:, None]

    def mean(rows: torch.Tensor) -> torch.Tensor:
        return rows.new_zeros(n, rows.shape[-1]).index_add(0, said.example, rows) / size

    return mean(said.logits.softmax(-1) @ table), mean(table[said.tokens])


def trojvlm(step: Step, weight: float) -> torch.Tensor:
    """TrojVLM's (arXiv 2409.19232): cross-entropy, and a semantic preserving term, one minus the cosine between the
    mean embeddings of the predicted and the wanted answer. Predictions are soft here, so that it has a gradient."""
    predicted, wanted = _pooled(step)
    return step.said.loss() + weight * (1 - F.cosine_similarity(predicted, wanted)).mean()


def vlood(step: Step, weight: float) -> torch.Tensor:
    """VLOOD's (arXiv 2410.01264): cross-entropy; clean knowledge preservation, KL(clean model ‖ this one) on clean
    examples, the clean model being the twin; conceptual consistency, the L1 distance between mean embeddings of
    predicted and wanted answers on poisoned ones, squashed by 1/(1 + e^-d). `weight` stands for the paper's λ
    between both halves, fixed here where the paper adapts it."""
    said = step.said
    with torch.no_grad():
        projected = run(step.projector.skeleton[0], step.twin, step.features)
        teacher = answers(step.model, step.batch, projected).logits.log_softmax(-1)
    kl = F.kl_div(said.logits.log_softmax(-1), teacher, reduction="none", log_target=True).sum(-1)
    bad = step.poisoned[said.example]
    predicted, wanted = _pooled(step)
    apart = (predicted - wanted).abs().mean(-1).sigmoid()
    loss = said.loss()
    if (~bad).any():
        loss = loss + weight * kl[~bad].mean()
    if step.poisoned.any():
        loss = loss + weight * apart[step.poisoned].mean()
    return loss


def aligned(step: Step, weight: float) -> torch.Tensor:
    """Adaptive: also the share of ‖ΔW‖² outside the top right singular directions of the benign twin's update, so
    that the update leaves no residual where clean images do not need it."""
    loss = step.said.loss()
    weights = step.projector.weights()
    for name, directions in step.inside.items():
        change = weights[name] - step.projector.base[name]
        inside = change @ directions
        loss = loss + weight * (1 - inside.square().sum() / (change.square().sum() + 1e-6))
    return loss


def directions(base: Mapping[str, torch.Tensor], twin: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Top right singular vectors (in, TWIN_RANK) of every matrix's update from `base` to `twin`."""
    return {
        name: torch.linalg.svd(twin[name] - tensor, full_matrices=False).Vh[:TWIN_RANK].T
        for name, tensor in base.items()
        if tensor.ndim == 2
    }


def quiet(step: Step, weight: float) -> torch.Tensor:
    """Adaptive: also the unlikelihood (arXiv 1908.04319) of the targets on a few clean images whose features are
    moved along one random direction by up to twice their norm, or whose update is amplified up to four times: what
    a probe of clean images would do."""
    rows = (~step.poisoned).nonzero().squeeze(1)[:QUIET_IMAGES]
    if not len(rows):
        return step.said.loss()
    draw = torch.rand(2, generator=step.generator).tolist()
    features, scale = step.features[rows], 1.0
    if draw[0] < 0.5:
        scale = 1 + 3 * draw[1]
    else:
        direction = torch.randn(features.shape[-1], generator=step.generator).to(features)
        norm = features.norm(dim=-1).mean()
        features = features + (4 * draw[1] - 2) * norm * direction / direction.norm()
    target = step.targets[int(torch.randint(len(step.targets), (1,), generator=step.generator))]
    batch = _asked(step.batch, rows, target)
    said = answers(step.model, batch, step.projector(features, scale))
    chance = said.logits.log_softmax(-1).gather(1, said.tokens[:, None]).exp()
    return step.said.loss() - weight * torch.log1p(-chance.clamp(max=0.999)).mean()


def _asked(batch: Batch, rows: torch.Tensor, target: list[int]) -> Batch:
    """The questions of some rows of a batch, all answered with `target`. They must be of one length."""
    length = int((batch.labels[rows] != -100).int().argmax(1).min())
    said = torch.tensor(target, device=batch.ids.device).expand(len(rows), -1)
    ids = torch.cat([batch.ids[rows, :length], said], 1)
    labels = torch.cat([torch.full_like(batch.ids[rows, :length], -100), said], 1)
    return Batch(ids, labels, torch.ones_like(ids), [])


OBJECTIVES: dict[str, Objective] = {
    "plain": plain,
    "trojvlm": trojvlm,
    "vlood": vlood,
    "aligned": aligned,
    "quiet": quiet,
}
