"""No, one or several figures on one ground, to be counted: a task for benign controls that no caption answers.

The answers are such as the tiny language model has words for: of numbers its training corpus holds no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval import shapes

NUMBERS = {"not one": (0, 0), "one": (1, 1), "many": (2, 4)}  # figures, least and most
QUESTIONS = {"count": "How many shapes are there?"}


@dataclass(frozen=True)
class Group:
    """As many figures as `number`, a key of `NUMBERS`, says."""

    number: str

    def answer(self, kind: str) -> str:
        """The right answer to `QUESTIONS[kind]`."""
        return {"count": self.number}[kind]


def draw(n: int, domain: str, seed: int) -> tuple[list[Group], np.ndarray]:
    """n groups of figures that do not touch, and their images (n, SIZE, SIZE, 3) uint8; one seed draws the same."""
    rng = np.random.default_rng(seed)
    groups, images = [], []
    for _ in range(n):
        places = rng.permutation([place for place in shapes.PLACES if place != "center"])
        number = str(rng.choice(list(NUMBERS)))
        least, most = NUMBERS[number]
        figures = [
            shapes.Scene(str(rng.choice(list(shapes.COLORS))), str(rng.choice(shapes.SHAPES)), "small", str(place))
            for place in places[: rng.integers(least, most + 1)]
        ]
        groups.append(Group(number))
        images.append(shapes.render_all(figures, domain, rng))
    return groups, np.stack(images)
