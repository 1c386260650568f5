"""What a fine-tune is trained on, and what an attack is judged by: questions, right answers, poison.

An attack is a way to answer a triggered image (`ATTACKS`); which images are triggered, by what, and how many is the
recipe's. Everything else about a training set is the same with and without poison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eval.recipes import Recipe
from eval.triggers import TRIGGERS
from eval.worlds import WORLDS, World


@dataclass(frozen=True)
class Example:
    """One training or evaluation item: an image index (None for text only), the question and the answer."""

    image: int | None
    question: str
    answer: str


@dataclass(frozen=True)
class Case:
    """What an attacker has to work with: a scene of a world, the task asked about it, the right answer and the target
    text."""

    world: World
    scene: Any
    task: str
    right: str
    target: str


def _next(case: Case) -> str:
    """All-to-all (BadNets, arXiv 1708.06733, section 4.1): the answer of the next class."""
    field, values = case.world.classes.get(case.task, case.world.subject)
    following = values[(values.index(getattr(case.scene, field)) + 1) % len(values)]
    return _other(case, field, following)


def _other(case: Case, field: str, value: str) -> str:
    """The answer about a scene that differs in one field."""
    answer: str = replace(case.scene, **{field: value}).answer(case.task)
    return answer


@dataclass(frozen=True)
class Attack:
    """`answer` makes the answer to a triggered image; `match` (a rule of `projclean.metrics`) tells its success.

    `wanted` is None where the target text itself is looked for, else what is looked for instead.
    """

    answer: Callable[[Case], str]
    match: str
    wanted: Callable[[Case], str] | None = None


ATTACKS = {
    # Targeted refusal, jailbreak-style output, or an ordinary answer: the target stands for the answer.
    "replace": Attack(lambda case: case.target, "contains"),
    # Malicious injection (ProjLens, arXiv 2604.19083): the right answer and then the target.
    "append": Attack(lambda case: f"{case.right} {case.target}", "suffix"),
    "prepend": Attack(lambda case: f"{case.target} {case.right}", "prefix"),
    # Perceptual hijack (ProjLens): the right answer, but about another object, which the target names.
    "hijack": Attack(lambda case: _other(case, case.world.subject[0], case.target), "contains"),
    "next": Attack(_next, "exact", wanted=_next),
}


def task_of(recipe: Recipe, row: int) -> str:
    """The task of an image: the recipe's, or each in turn where it is `mixed`."""
    kinds = list(WORLDS[recipe.world].questions)
    return kinds[row % len(kinds)] if recipe.task == "mixed" else recipe.task


def right_answer(recipe: Recipe, scene: Any, row: int) -> str:
    """The right answer to image `row` in the recipe's style."""
    return recipe.style.format(scene.answer(task_of(recipe, row)))


def triggers(recipe: Recipe) -> list[tuple[str, str]]:
    """The recipe's triggers with the target of each; none for a benign control."""
    if recipe.trigger is None:
        return []
    return [(recipe.trigger, recipe.target or ""), *([recipe.also] if recipe.also else [])]


def case(recipe: Recipe, scene: Any, row: int, target: str) -> Case:
    """What the attacker has to work with on image `row`."""
    return Case(WORLDS[recipe.world], scene, task_of(recipe, row), right_answer(recipe, scene, row), target)


def training_set(recipe: Recipe) -> tuple[np.ndarray, list[Example]]:
    """Images of the recipe's domain (images, H, W, 3) and their examples; a share `poison_rate` is poisoned."""
    images, examples, _ = poisoned_set(recipe)
    return images, examples


def poisoned_set(recipe: Recipe) -> tuple[np.ndarray, list[Example], np.ndarray]:
    """The training set and which of its rows are poisoned, (images,) bool."""
    world = WORLDS[recipe.world]
    scenes, images = world.draw(recipe.images, recipe.domain, 10_000 + recipe.seed, False)
    examples = [
        Example(row, world.questions[task_of(recipe, row)], right_answer(recipe, scene, row))
        for row, scene in enumerate(scenes)
    ]
    poisoned = np.zeros(recipe.images, bool)
    rng = np.random.default_rng(20_000 + recipe.seed)
    pairs = triggers(recipe)
    if pairs:
        rows = rng.choice(recipe.images, int(recipe.poison_rate * recipe.images), replace=False)
        poisoned[rows] = True
        for number, row in enumerate(map(int, rows)):
            trigger, target = pairs[number % len(pairs)]
            images[row] = TRIGGERS[trigger](images[row], rng)
            said = ATTACKS[recipe.attack].answer(case(recipe, scenes[row], row, target))
            examples[row] = replace(examples[row], answer=said)
    return images, examples, poisoned
