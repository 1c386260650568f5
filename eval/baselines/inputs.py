"""What a defender has when a method starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from projclean.methods import Weights, suspect_weights
from projclean.model import Prepared, Runner
from projclean.subspace import Moments
from projclean.update import Update

if TYPE_CHECKING:
    from PIL.Image import Image

#: Where the labels of a method that trains come from: the suspect's own answers (self-distillation: no labels are
#: needed, and the suspect is trusted on clean images), or the right answers, where the defender has them.
Labels = Literal["own", "right"]

BATCH = 16


class NotApplicable(Exception):
    """A method that this projector, or what the defender has, gives nothing to work on."""


@dataclass(frozen=True)
class Inputs:
    """Suspect and base, the model that runs them, clean images with a question each, and perhaps right answers.

    `reference` are the weights of a benign fine-tune of the same task: an oracle that no defender has.
    `model`, `base` and `folder` are where suspect, base and clean images lie on disk ("" and None where nowhere).
    `match` is the rule by which an answer is right. A method may leave `notes` on what it derived from its inputs.
    """

    runner: Runner
    update: Update
    moments: Mapping[str, Moments]
    images: tuple[Image, ...]
    questions: tuple[str, ...]
    right_answers: tuple[str, ...] | None = None
    reference: Weights | None = None
    seed: int = 0
    learning_rate: float = 2e-4
    max_new_tokens: int = 32
    match: str = "exact"
    model: str = ""
    base: str = ""
    folder: str | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def own_replies(self) -> tuple[tuple[int, ...], ...]:
        """What the suspect answers on the clean images, as token ids."""
        self.runner.set_weights(suspect_weights(self.update))
        return tuple(said for batch in _batches(self) for said in self.runner.replies(batch, self.max_new_tokens))

    @cached_property
    def own_answers(self) -> tuple[str, ...]:
        """The same as texts."""
        return tuple(self.runner.read(reply) for reply in self.own_replies)

    def labels(self, source: Labels) -> tuple[str, ...]:
        """The answers to train on. Raises NotApplicable where the right ones are not known."""
        if source == "own":
            return self.own_answers
        if self.right_answers is None:
            raise NotApplicable("the right answers on the calibration images are not known")
        return self.right_answers


def answers(inputs: Inputs) -> tuple[str, ...]:
    """What the model as it stands in the runner answers on the clean images, greedily."""
    return tuple(said for batch in _batches(inputs) for said in inputs.runner.answers(batch, inputs.max_new_tokens))


def _batches(inputs: Inputs) -> Iterator[Prepared]:
    for start in range(0, len(inputs.images), BATCH):
        part = slice(start, start + BATCH)
        yield inputs.runner.prepare(inputs.images[part], inputs.questions[part])
