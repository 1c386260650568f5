"""What the projector makes of images, batch by batch: its hidden layer and its output, for any weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from projclean.model import Prepared, Runner, Weights

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 16


@dataclass(frozen=True)
class ImageSet:
    """Images under a name, with the question asked about each."""

    name: str
    images: tuple[Image, ...]
    prompts: tuple[str, ...]


def batches(runner: Runner, images: ImageSet) -> Iterator[Prepared]:
    """Batches of neighbours of one size, so that every image of a batch has equally many tokens."""
    pairs = list(zip(images.images, images.prompts, strict=True))
    for _, group in groupby(pairs, key=lambda pair: pair[0].size):
        alike = list(group)
        for start in range(0, len(alike), BATCH):
            part = alike[start : start + BATCH]
            yield runner.prepare([image for image, _ in part], [prompt for _, prompt in part])


def project(
    runner: Runner, batch: Prepared, weights: Weights, layers: Sequence[str]
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """(hidden, output) of a projector with these weights on a batch, float32.

    `hidden` (images, tokens, h) is what the last of `layers` (in order of running) multiplies, after the
    nonlinearity; None for a projector of one matrix. `output` (images, tokens, d) is what it gives.
    """
    runner.set_weights(weights)
    last = layers[-1]
    rows = runner.layer_inputs(batch)[last]
    weight, bias = weights[last]
    inputs = rows.reshape(batch.images, -1, rows.shape[-1])
    output = inputs @ weight.T
    return (inputs if len(layers) > 1 else None), output if bias is None else output + bias
