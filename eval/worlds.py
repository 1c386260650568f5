"""What models are asked about: worlds of scenes with pictures, questions and right answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval import groups, photos, shapes


@dataclass(frozen=True)
class World:
    """A kind of images and what can be asked about them.

    `questions` by task, the main one first. `classes` are a task's: a field of the scene and its values in order;
    a task that is not in it has those of the main task. `draw(n, domain, seed, held_out)` makes scenes and their images
    (n, H, W, 3) uint8; a scene's `answer(task)` is right. Where images are not drawn but chosen, held-out ones are
    never trained on.
    """

    questions: Mapping[str, str]
    subject: tuple[str, Sequence[str]]
    classes: Mapping[str, tuple[str, Sequence[str]]]
    draw: Callable[[int, str, int, bool], tuple[Sequence[Any], np.ndarray]]


WORLDS = {
    "shapes": World(
        shapes.QUESTIONS,
        ("shape", shapes.SHAPES),
        {
            "color": ("color", tuple(shapes.COLORS)),
            "place": ("place", tuple(shapes.PLACES)),
            "large": ("scale", tuple(shapes.SCALES)),
        },
        lambda n, domain, seed, held_out: shapes.draw(n, domain, seed),
    ),
    "groups": World(
        groups.QUESTIONS,
        ("number", tuple(groups.NUMBERS)),
        {},
        lambda n, domain, seed, held_out: groups.draw(n, domain, seed),
    ),
    "photos": World(photos.QUESTIONS, ("label", photos.LABELS), {}, photos.draw),
}
