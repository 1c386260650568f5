"""Calibration images and the question asked about each: a user's own, or built-in ones that the base has a view of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from projclean.errors import ImagesError
from projclean.images import KINDS, built_in_images, draw, image_files, read_image, shrunk
from projclean.untrusted import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

BUILT_IN, MOST, LEAST = 72, 256, 4  # images
HELD_OUT = 86  # images, at most: a third of `MOST`
BATCH, DRAWN, ALIKE = 16, 256, 2  # how many built-in images are drawn at a time, at most, and may be answered alike
METADATA = "metadata.jsonl"
METADATA_LIMIT = 64 << 20  # bytes
#: Pixels. All images are held at once, and processors make an input of at most some 2000 a side of them (SmolVLM 2048,
#: InternVL's twelve tiles 1792); only where one was set for more (Qwen2-VL's, up to 12.8 million) is detail lost.
LONGEST_SIDE = 2048


@dataclass(frozen=True)
class Calibration:
    """Clean images, a question about each, and a description of where they come from."""

    pictures: tuple[Image, ...]
    questions: tuple[str, ...]
    source: str

    def parted(self) -> tuple[Calibration, Calibration]:
        """Two thirds to watch and to learn from, one third held out, of many images no more than `HELD_OUT`."""
        at = max(2 * len(self.pictures) // 3, len(self.pictures) - HELD_OUT)
        return self.of(range(at)), self.of(range(at, len(self.pictures)))

    def of(self, rows: Sequence[int]) -> Calibration:
        """Some of the images, in the order given."""
        return Calibration(
            tuple(self.pictures[row] for row in rows), tuple(self.questions[row] for row in rows), self.source
        )


def built_in(seed: int, prompt: str) -> Calibration:
    """Built-in images as they come."""
    return _own(built_in_images(BUILT_IN, seed), seed, prompt)


def chosen(seed: int, prompt: str, ask: Callable[[Sequence[Image]], Sequence[str]]) -> Calibration:
    """Built-in images of which a model, asked about them by `ask`, says different things.

    A picture of which a model says what it says of most shows it nothing, and what a trigger does on such a picture is
    no measure of what it does on others. No answer is kept more than twice, and a kind of image is drawn the oftener
    the more of it were kept; where too few are found, those that were passed over fill up the rest.
    """
    rng, said = np.random.default_rng(seed), Counter[str]()
    kept: list[Image] = []
    passed: list[Image] = []
    tried, good = np.ones(len(KINDS)), np.ones(len(KINDS))
    for first in range(0, DRAWN, BATCH):
        if len(kept) >= BUILT_IN:
            break
        shares = good / tried
        # The first batch is of all kinds in turn.
        kinds = rng.choice(len(KINDS), BATCH, p=shares / shares.sum()) if first else np.arange(BATCH) % len(KINDS)
        pictures = [draw(int(kind), rng) for kind in kinds]
        for kind, picture, answer in zip(kinds, pictures, ask(pictures), strict=True):
            new = said[answer] < ALIKE
            said[answer] += new
            tried[kind] += 1
            good[kind] += new
            (kept if new else passed).append(picture)
    return _own([*kept, *passed][:BUILT_IN], seed, prompt)


def _own(pictures: Sequence[Image], seed: int, prompt: str) -> Calibration:
    return Calibration(tuple(pictures), (prompt,) * len(pictures), f"{len(pictures)} built-in images (seed {seed})")


def from_folder(folder: str | Path, prompt: str, most: int = MOST) -> Calibration:
    """Up to `most` images of a folder in name order, none larger than `LONGEST_SIDE`; each is asked the `question` that
    a `metadata.jsonl` there gives it, or else the prompt. Raises ImagesError."""
    if not str(folder):
        raise ImagesError("--images is empty; name a folder, or leave the option out for built-in images")
    folder = Path(folder)
    files = image_files(folder)[:most]
    if len(files) < LEAST:
        raise ImagesError(f"{folder}: holds {len(files)} images; give at least {LEAST}, better {BUILT_IN}")
    asked = _questions(folder / METADATA) if (folder / METADATA).is_file() else {}
    questions = tuple(asked.get(file.name, prompt) for file in files)
    own = sum(file.name in asked for file in files)
    source = f"{len(files)} images from {folder}" + (f" ({own} with questions of {METADATA})" if own else "")
    return Calibration(tuple(shrunk(read_image(file), LONGEST_SIDE) for file in files), questions, source)


def _questions(metadata: Path) -> dict[str, str]:
    """The question about each file that metadata.jsonl lists with one."""
    found: dict[str, str] = {}
    try:
        lines = read_bytes(metadata, METADATA_LIMIT).decode("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ImagesError(f"{metadata}: cannot be read ({error}); mend it or move it away") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, question = row["file_name"], row.get("question")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ImagesError(f"{metadata}: line {number} needs a file_name; mend it or move the file away") from error
        if isinstance(name, str) and isinstance(question, str) and question.strip():
            found[name] = question
    return found
