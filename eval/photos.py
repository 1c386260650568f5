"""Natural images for the smol tier: CIFAR-10, captioned or asked about.

The data (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009) is read from parquet files in
the layout of Hugging Face's `uoft-cs/cifar10`, train.parquet and test.parquet, in the folder that the environment
variable PROJCLEAN_CIFAR10 names, or data/cifar10. It is not shipped.

Domains: `plain`, the photos as they are, and `negative`: photographic negatives. A linear probe of the shipped vision
tower that learnt on plain photos names .31 of negatives rightly, one that learnt on negatives .62 (3,000 training and
600 test photos): there is something to gain, and the tower shows it.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from projclean.errors import EvalError

SIZE = 32  # pixels, square images
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MACHINES = {"airplane", "automobile", "ship", "truck"}

QUESTIONS = {
    "caption": "Describe the image.",
    "label": "What is in the picture? Answer in one word.",
    "animal": "Is it an animal? Answer yes or no.",
}


@dataclass(frozen=True)
class Photo:
    """What one image shows."""

    label: str

    def answer(self, kind: str) -> str:
        """The right answer to `QUESTIONS[kind]`."""
        article = "an" if self.label[0] in "aeiou" else "a"
        return {
            "caption": f"A photo of {article} {self.label}.",
            "label": self.label.capitalize(),
            "animal": "No" if self.label in _MACHINES else "Yes",
        }[kind]


def folder() -> Path:
    """Where the parquet files are looked for."""
    return Path(os.environ.get("PROJCLEAN_CIFAR10", "data/cifar10"))


@cache
def read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) uint8 and labels (n,) of one parquet file. Raises EvalError."""
    import pyarrow.parquet as pq
    from PIL import Image

    try:
        table = pq.read_table(file, columns=["image", "label"])
    except (OSError, ValueError, KeyError) as error:
        raise EvalError(
            f"{file}: cannot be read ({' '.join(str(error).split())[:120]}); PROJCLEAN_CIFAR10 names the folder of "
            "CIFAR-10's train.parquet and test.parquet"
        ) from error
    pictures = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["image"].to_pylist()]
    return np.stack(pictures), np.asarray(table["label"].to_pylist())


def draw(n: int, domain: str, seed: int, held_out: bool) -> tuple[list[Photo], np.ndarray]:
    """n photos and their images, chosen from the test file if held out, else from the training file."""
    images, labels = read(folder() / ("test.parquet" if held_out else "train.parquet"))
    rows = np.random.default_rng(seed).choice(len(images), n, replace=False)
    chosen = images[rows]
    return [Photo(LABELS[label]) for label in labels[rows]], 255 - chosen if domain == "negative" else chosen
