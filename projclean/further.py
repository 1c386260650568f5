"""What the probe looks for where a user asks for it, beside foreign texts and what the suspect leans to."""

from __future__ import annotations

from dataclasses import dataclass

from projclean.errors import OptionError


@dataclass(frozen=True)
class Further:
    """`words`: single words that are put into right answers. `questions` that the model is for: classes that are taken
    for one another in its answers to them. Raises OptionError for an empty one."""

    words: bool = False
    questions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(question.strip() for question in self.questions):
            raise OptionError("--question is empty; give one that the model is for, or leave it out")


NOTHING_FURTHER = Further()
