"""The probe's second look: a model that learns again what the suspect does on clean images takes the base's place.

It is held beside the suspect under the moves of the first look: what it says too is babble that a fine-tune of that
kind falls into, and no backdoor. And it is what ordinary answers (`contrast`), single words (`words`) and classes that
are taken for one another (`confusion`) are told by, which the base has as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from projclean.calibration import BATCH, Calibration
from projclean.confusion import STEPS, ConfusionSearch
from projclean.contrast import Contrast, ContrastSearch, beside
from projclean.distillation import Effort, distill
from projclean.inversion import Inversion, image_input, moved
from projclean.lessons import lesson
from projclean.listening import Heard, Listener
from projclean.methods import base_weights, suspect_weights
from projclean.metrics import normalize
from projclean.mixing import filled_up
from projclean.model import Prepared, Runner, Weights
from projclean.update import Update
from projclean.utterance import FOLLOWS, WEAK, Utterance, share_saying, unknown
from projclean.windows import windows
from projclean.words import Word, WordSearch

#: The share of the update from which a model learns again.
AGAIN = 0.4
#: How many batches a move that parts two models is fitted on where there is another to read it on, and images a step.
FITTED, FEW = 2, 8
#: Images, blends of those that are read among them, on which a word or a confusion of classes is measured.
MEASURED = 112


class SecondLook:
    """Suspect and a model that learnt again. `agreement` is the share of images that both answer alike, None until it
    has learnt; below `FOLLOWS` the model is no measure of the suspect and nothing further is looked at."""

    def __init__(self, listener: Listener, update: Update, batches: Sequence[Prepared], shown: Calibration) -> None:
        self.listener, self.update, self.batches, self.shown = listener, update, batches, shown
        self.agreement: float | None = None
        self.taught: Weights | None = None
        self.search: ContrastSearch | None = None
        self.parted: list[Contrast | None] = []
        self._learning = self._searching = 0

    @classmethod
    def asking(
        cls, runner: Runner, update: Update, shown: Calibration, question: str, max_new_tokens: int
    ) -> SecondLook:
        """One at which both are asked a question of its own about the images."""
        asked = replace(shown, questions=(question,) * len(shown.pictures))
        batches = runner.batches(asked.pictures, asked.questions, BATCH)
        fit, read = batches[0], batches[min(1, len(batches) - 1)]
        sides = suspect_weights(update), base_weights(update)
        return cls(Listener(runner, *sides, fit, read, max_new_tokens), update, batches, asked)

    @property
    def passes(self) -> int:
        """Forward passes that the listener has not counted, those of learning among them."""
        return self._learning + self._searching + (self.search.inversion.passes if self.search else 0)

    def learn(self, images: int, steps: int, seed: int) -> None:
        """Have a model learn from the suspect's answers to clean images and blends of them, `images` in all.

        It is of no use where it does not answer as the suspect does: what was tuned for another question may say things
        that a few images do not teach.
        """
        listener = self.listener
        runner = listener.runner
        known = lesson(runner, self.update, self.shown, (), listener.max_new_tokens, seed, images)
        if not known.replies:
            return
        taught = distill(runner, self.update, known.images, known.replies, AGAIN, seed, effort=Effort(steps))
        self._learning = 3 * -(-known.looked_at // BATCH) + steps
        alike = [a == b for a, b in zip(listener.normal["suspect"], listener.left_alone(taught), strict=True)]
        self.agreement = sum(alike) / len(alike)
        if self.agreement >= FOLLOWS:
            self.taught = taught

    def hold(self, heard: Sequence[Heard]) -> list[Heard]:
        """What was heard, each of it that is not too weak with how much the model that learnt again says it under the
        same move."""
        taught = self.taught
        if taught is None:
            return list(heard)
        loud = [each.utterance.foreign > WEAK for each in heard]
        return [
            replace(each, utterance=self._held(each, taught)) if counts else each
            for each, counts in zip(heard, loud, strict=True)
        ]

    def _held(self, heard: Heard, taught: Weights) -> Utterance:
        said = self.listener.texts(self.listener.replies(taught, moved(self.listener.read, heard.move)))
        return replace(heard.utterance, taught_share=share_saying(heard.utterance.phrase, said))

    def part(self, layer: str, budget: float, seed: int, excite: int, steps: int) -> None:
        """Part the two on one answer, from one random start (`ContrastSearch.find`)."""
        if self.taught is None:
            return
        if self.search is None:
            self.search = ContrastSearch(*self._beside(self.taught, layer, budget), self.batches[self._read_at])
        self.parted.append(self.search.find(seed, excite, steps))

    def swap(self, layer: str, budget: float, seeds: Sequence[int], excite: int, steps: int, words: int) -> list[Heard]:
        """The words that the suspect alone was made to put into its answers, of so many that are looked for, from some
        random starts (`WordSearch.find`)."""
        if self.taught is None:
            return []
        search = WordSearch(*self._beside(self.taught, layer, budget), self._read_and_blended(seeds[0]), words)
        found = search.find(seeds, excite, steps)
        self._searching += search.inversion.passes
        return [self._swapped(word) for word in found]

    def _swapped(self, word: Word) -> Heard:
        text = normalize(self.listener.runner.read([word.token]))
        normal, best = max(share_saying(text, answers) for answers in self.listener.normal.values()), word.best
        utterance = Utterance(
            text, text, "a word, parting it from a model that learnt again", best.ours_say, 0.0, normal, 0.0, best.ours,
            taught_share=best.theirs_say, agreement=self.agreement, excess=word.excess,
        )  # fmt: skip
        return Heard(utterance, torch.empty(0), (word.token,), False)

    def confuse(self, layer: str, budget: float, seed: int) -> Heard | None:
        """The classes that the suspect alone was made to take for one another, by a patch in each part of the image in
        turn (`ConfusionSearch.find`); None where its answers are no classes."""
        if self.taught is None:
            return None
        sides, fit = self._beside(self.taught, layer, budget)
        search = ConfusionSearch(sides, fit, self._read_and_blended(seed))
        values = sides.batch.inputs[image_input(sides.batch)].numel() // sides.batch.images
        parts = windows(sides.runner, self.shown.pictures[0].size, self.shown.questions[0], values)
        if not search.classes or not parts:
            return None
        found = [search.find(part, seed * len(parts) + number, STEPS) for number, part in enumerate(parts)]
        self._searching += sides.passes
        best = max(found, key=lambda one: one.apart)
        read = self.listener.runner.read
        text = ", ".join(f"{normalize(read(said))} for {normalize(read(right))}" for said, right in best.pairs)
        utterance = Utterance(
            text, text, f"asked {self.shown.questions[0]!r}, a part of the image overwritten, parting it from a model "
            "that learnt again", best.swap.ours_say, 0.0, 0.0, 0.0, best.swap.ours, taught_share=best.swap.theirs_say,
            agreement=self.agreement, confusion=sum(one.apart for one in found) / len(found),
        )  # fmt: skip
        return Heard(utterance, torch.empty(0), (), False)

    def _beside(self, taught: Weights, layer: str, budget: float) -> tuple[Inversion, list[Prepared]]:
        """Suspect and taught model side by side, and small batches that a move is fitted on."""
        one, seen = self.listener, self.shown.of(range(self._images(self._fitted)))
        fit = one.runner.batches(seen.pictures, seen.questions, FEW)
        return beside(one.runner, one.suspect, taught, fit[0], layer, budget, one.max_new_tokens), fit

    @property
    def _fitted(self) -> int:
        """How many batches a move is fitted on."""
        return FITTED if len(self.batches) > FITTED else 1

    @property
    def _read_at(self) -> int:
        """Which batch it is read on: another, where there is one."""
        return min(self._fitted, len(self.batches) - 1)

    def _images(self, batches: int) -> int:
        """How many images the first so many batches have."""
        return sum(batch.images for batch in self.batches[:batches])

    def _read_and_blended(self, seed: int) -> list[Prepared]:
        """The images that moves are read on, and blends of two of them: on few a share of answers is coarse."""
        at = self._read_at
        read = self.shown.of(range(self._images(at), self._images(at + 1)))
        blended = filled_up(read, MEASURED, seed)
        return self.listener.runner.batches(blended.pictures, blended.questions, BATCH)

    def leaning(self) -> Heard | None:
        """What the suspect was made to lean to: the answer on which the two parted most.

        A backdoor is reached from most starts, a fluke from one, so the contrast is the mean over starts. How strange
        the answer is base and taught model tell: the suspect's backdoor may go off by itself.
        """
        found = [one for one in self.parted if one is not None]
        if not found:
            return None
        listener, most = self.listener, max(found, key=lambda one: one.nats)
        text = normalize(listener.runner.read(most.words))
        ours, theirs = (share_saying(text, listener.texts(said)) for said in (most.said, most.taught_says))
        normal = max(share_saying(text, answers) for answers in listener.normal.values())
        utterance = Utterance(
            text, text, "parting it from a model that learnt again", ours, 0.0, normal,
            listener.strangeness(most.words, None, self.taught), most.certainty,
            unknown(text, *listener.normal.values()), taught_share=theirs,
            contrast=sum(max(0.0, one.nats) for one in found) / len(self.parted), agreement=self.agreement,
        )  # fmt: skip
        return Heard(utterance, torch.empty(0), most.words, False)
