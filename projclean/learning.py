"""What a repair learns from the suspect's answers: the suspect is asked once, whatever is tried then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from projclean.case import Bench, Case
from projclean.distillation import Effort, distill
from projclean.doubt import judged
from projclean.errors import ModelError
from projclean.lessons import IMAGES, Lesson, lesson
from projclean.methods import Directions, Weights
from projclean.recovery import effort_on, recover
from projclean.unsaid import tokens_of

ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Learning:
    """From how many `images`, blends among them, and whether `judged` (a judge has a say in what `distill` learns,
    `doubt`)."""

    images: int = IMAGES
    judged: bool = False

    @property
    def remark(self) -> str:
        """What is unusual about it, to stand behind a candidate's name."""
        return ("" if self.images == IMAGES else f", {self.images} images") + (", judged" if self.judged else "")


@dataclass(frozen=True)
class Learner:
    """A bench to learn on. `heard` are phrases that the probe made the suspect say: an image on which it says them by
    itself teaches nothing. The `word` that the probe had the suspect put into answers ("" where there is none) is
    learnt as one that is not said: where the suspect says it, what it says without is learnt."""

    case: Case
    bench: Bench
    heard: Sequence[str]
    seed: int
    learning: Learning
    word: str = ""

    @cached_property
    def lesson(self) -> Lesson:
        """What there is to learn from the calibration images. Raises ModelError when there is nothing."""
        bench = self.bench
        taught = lesson(
            bench.runner, self.case.update, bench.learnt, self.heard, ANSWER_TOKENS, self.seed, self.learning.images,
            word=self.word,
        )  # fmt: skip
        if not taught.replies:
            raise ModelError(
                f"{self.case.model.path}: of {taught.looked_at} calibration images and blends none is left to learn "
                f"from: on {taught.left_out} the suspect says what the probe made it say; give other --images, or "
                "--method reflect alone"
            )
        return taught

    @cached_property
    def _doubted(self) -> tuple[Lesson, Weights | None]:
        """What `distill` learns from, and its judge, if there is one."""
        if not self.learning.judged:
            return self.lesson, None
        return judged(self.bench.runner, self.case.update, self.lesson, self.seed)

    def distilled(self, share: float) -> Weights:
        """Learnt from a share of the update."""
        (known, judge), effort = self._doubted, Effort.on(self.lesson.looked_at)
        return distill(
            self.bench.runner, self.case.update, known.images, known.replies, share, self.seed, effort=effort,
            judge=judge, unsaid=tokens_of(self.bench.runner, self.word),
        )  # fmt: skip

    def recovered(self, turned: Weights, held: Directions) -> Weights:
        """What turning directions around cost, learnt again."""
        known, effort = self.lesson, effort_on(self.lesson.looked_at)
        return recover(
            self.bench.runner, self.case.update, known.images, known.replies, turned, held, self.seed, effort=effort,
            unsaid=tokens_of(self.bench.runner, self.word),
        )  # fmt: skip

    def remark(self) -> str:
        """What was not learnt as the suspect says it, if anything; to be asked afterwards."""
        lost, told, of = self.lesson.left_out, self.lesson.retold, self.lesson.looked_at
        left_out = f"not learnt from {lost} of {of} images and blends, whose answers hold what the probe heard"
        never, instead = f"'{self.word}' not learnt at all", f", on {told} of {of} what the suspect says without it"
        return "; ".join([left_out] * bool(lost) + [never + instead * bool(told)] * bool(self.word))
