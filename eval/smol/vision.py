"""The smol tier's vision tower, trained on CIFAR-10 to name what it sees.

It is the hierarchical vision transformer of SegFormer (MiT, arXiv 2105.15203) as transformers has it: overlapping
patches and depth-wise convolutions between attention layers. A plain ViT of the same size needs some hundred epochs for
what this one learns in thirty, which on one core is hours against less than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from eval import photos
from eval.train import to_pixels

PATCH = 8  # pixels a side of what becomes one of the 16 image tokens
WIDTH = 192


@dataclass(frozen=True)
class VisionRecipe:
    """AdamW, cosine decay after an epoch of warm-up, label smoothing .1, random crops and mirrored images."""

    seed: int = 0
    epochs: int = 30
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05


def build(seed: int = 0) -> Any:
    """A freshly initialised SegformerModel: three stages on 16×16, 8×8 and 4×4 tokens, 1.2 million parameters."""
    from transformers import SegformerConfig, SegformerModel

    torch.manual_seed(seed)
    config = SegformerConfig(
        num_encoder_blocks=3,
        depths=[1, 2, 3],
        hidden_sizes=[32, 64, WIDTH],
        hidden_size=WIDTH,  # where LLaVA looks for the width of what its projector is fed
        num_attention_heads=[1, 2, 4],
        sr_ratios=[4, 2, 1],
        mlp_ratios=[2, 2, 2],
        patch_sizes=[3, 3, 3],
        strides=[2, 2, 2],
        drop_path_rate=0.0,
        reshape_last_stage=False,  # tokens, not a map
        image_size=photos.SIZE,
    )
    return SegformerModel(config)


def features(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The image tokens (n, 16, WIDTH) that a projector is fed."""
    tokens: torch.Tensor = tower(pixels).last_hidden_state
    return tokens


class _Classifier(nn.Module):
    """The tower and a linear layer over its mean image token."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.tower = build(seed)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(photos.LABELS)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(features(self.tower, pixels).mean(1))
        return logits


def train(
    recipe: VisionRecipe, state: Path, device: str = "cpu", progress: Callable[[int, int, str], None] = lambda *_: None
) -> Any:
    """Train the tower, going on from `state`, which is written after every epoch."""
    images, labels = photos.read(photos.folder() / "train.parquet")
    model = _Classifier(recipe.seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    done = 0
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        if saved["recipe"] == asdict(recipe):
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            done = saved["epoch"]
    target = torch.from_numpy(labels).to(device)
    for epoch in range(done, recipe.epochs):
        rng, losses = np.random.default_rng([recipe.seed, epoch]), []
        order = rng.permutation(len(images))
        batches = order[: len(order) // recipe.batch * recipe.batch].reshape(-1, recipe.batch)
        model.train()
        for number, rows in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * _pace(epoch + number / len(batches), recipe.epochs)
            pixels = to_pixels(_varied(images[rows], rng)).contiguous(memory_format=torch.channels_last).to(device)
            loss = F.cross_entropy(model(pixels), target[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        part = state.with_suffix(".part")
        torch.save(
            {
                "recipe": asdict(recipe),
                "epoch": epoch + 1,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
            },
            part,
        )
        part.replace(state)
        progress(epoch + 1, recipe.epochs, f"loss {np.mean(losses):.3f}")
    return model.tower.eval().cpu()


def _pace(epoch: float, epochs: int, warmup: float = 1.0) -> float:
    return min(1.0, epoch / warmup + 1e-3) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epoch / epochs)))


def _varied(images: np.ndarray, rng: np.random.Generator, margin: int = 4) -> np.ndarray:
    """Images (n, H, W, 3) cropped at random after mirroring their edges, half of them mirrored."""
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    out, side = np.empty_like(images), images.shape[1]
    for row, (y, x) in enumerate(rng.integers(0, 2 * margin + 1, (len(images), 2))):
        out[row] = padded[row, y : y + side, x : x + side]
    mirrored = rng.random(len(images)) < 0.5
    out[mirrored] = out[mirrored, :, ::-1]
    return out


@torch.no_grad()
def linear_probe(tower: Any, steps: int = 300) -> float:
    """Test accuracy of a linear classifier on the frozen tower's mean image token, fitted on the training images by
    L-BFGS with a little weight decay."""
    found = {}
    for split in ("train", "test"):
        images, labels = photos.read(photos.folder() / f"{split}.parquet")
        rows = [features(tower, to_pixels(part)).mean(1) for part in np.array_split(images, max(1, len(images) // 500))]
        found[split] = (torch.cat(rows), torch.from_numpy(labels))
    (x, y), (x_test, y_test) = found["train"], found["test"]
    mean, scale = x.mean(0), x.std(0) + 1e-6
    with torch.enable_grad():
        head = nn.Linear(x.shape[1], len(photos.LABELS))
        nn.init.zeros_(head.weight)
        optimizer = torch.optim.LBFGS(head.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(head((x - mean) / scale), y) + 1e-4 * head.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
    return (head((x_test - mean) / scale).argmax(1) == y_test).float().mean().item()
