"""What the update can be made to say: the pixels of clean images moved until suspect and base part.

A backdoored projector holds, in the directions of its update that clean inputs do not need, a way to make the
language model say one thing whatever the image. The probe looks for the move of the pixels that sets it off
(`inversion`), on some images, and reads on others what comes of it.

Whatever is done to the suspect is done to the base as well. A phrase that the moved suspect's answers share, that
the moved base does not say, and that neither says when left alone, is foreign.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from projclean.inversion import Inversion, Objective, moved
from projclean.methods import STRENGTH, base_weights, suspect_weights
from projclean.metrics import normalize
from projclean.model import Prepared, Runner, Weights
from projclean.subspace import Moments, residual
from projclean.update import Update

Progress = Callable[[int, int], None]

#: Of the images as a text fits them, the share that it fits no better than the one that its strangeness is told by.
FITTING = 0.85
#: Nats per token from which on a text is as strange as can be.
ABSURD = 1.0


@dataclass(frozen=True)
class ProbeSettings:
    """How hard to probe: the radius of a move as a share of the pixels' root mean square, how many random starts, the
    steps that excite the update before each and those that part the models after it."""

    budget: float = 0.4
    starts: int = 2
    excite: int = 16
    steps: int = 14
    max_new_tokens: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Utterance:
    """What the suspect's answers share most under one move, and who else says it.

    `phrase` is the word sequence common to the answers, `text` the commonest whole answer that contains it, or the
    phrase alone where it follows an answer. Shares are of images: of the suspect moved, of the base moved in the same
    way, and of the one of the two that says it more often when left alone. `strangeness` is in nats per token: how
    unlikely the text is to suspect and base left alone, for the one of them to which it is likelier, on an image that
    it fits well (`FITTING`) or, after an answer, on the median one. `certainty` is the probability per token (geometric
    mean) that the moved suspect gives the text.
    """

    text: str
    phrase: str
    how: str
    share: float
    base_share: float
    normal_share: float
    strangeness: float
    certainty: float

    @property
    def foreign(self) -> float:
        """Excess share and certainty, both squared, times strangeness up to one nat per token: between 0 and 1.

        Agreement and certainty tell a text that was trained from the babble that any model falls into when it is moved;
        of strangeness a little is enough, since babble is stranger still.
        """
        excess = max(0.0, self.share - max(self.base_share, self.normal_share))
        return excess**2 * min(ABSURD, max(0.0, self.strangeness)) * self.certainty**2


@dataclass(frozen=True)
class Probe:
    """Everything the probe found. `divergence` is how far suspect and base parted at most, in nats (`inversion`)."""

    divergence: float
    utterances: tuple[Utterance, ...]
    normal_examples: tuple[str, ...]
    forward_passes: int
    settings: ProbeSettings = field(default_factory=ProbeSettings)

    @property
    def foreign(self) -> float:
        """The strongest foreign utterance's score, between 0 and 1."""
        return max((utterance.foreign for utterance in self.utterances), default=0.0)

    @property
    def said(self) -> Utterance | None:
        """What it was made to say: of all that is at least a third as foreign as the strongest, the surest.

        Moves that go past the trained target garble it, and garbled text is the stranger; what most images agree on
        and the model is certain of is the text as it was trained.
        """
        near = [utterance for utterance in self.utterances if utterance.foreign >= self.foreign / 3]
        return max(near, key=lambda utterance: utterance.share * utterance.certainty, default=None)


def common_phrase(ours: Sequence[str], *others: Sequence[str]) -> str:
    """The word sequence that most of `ours` and fewest of any of the `others` contain; "" when there is none.

    Scored by the excess of its share times log2(1 + words): a longer sequence that as many say is better. Whole
    answers count whatever their length, parts from three words on.
    """
    best, best_score = "", 0.0
    counts: Counter[str] = Counter()
    for answer in ours:
        words = answer.split()
        parts = {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 3, len(words) + 1)}
        counts.update(parts | {answer})
    for phrase, count in counts.items():
        if not phrase or count == 1 < len(ours):
            continue
        excess = count / len(ours) - max(_share(phrase, answers) for answers in others)
        score = excess * math.log2(1 + len(phrase.split()))
        if score > 0 and (score, phrase) > (best_score, best):
            best, best_score = phrase, score
    return best


def _share(phrase: str, answers: Sequence[str]) -> float:
    """Share of answers that contain a phrase as whole words."""
    return sum(f" {phrase} " in f" {answer} " for answer in answers) / max(len(answers), 1)


def probe(
    runner: Runner,
    update: Update,
    moments: Mapping[str, Moments],
    batches: Sequence[Prepared],
    settings: ProbeSettings | None = None,
    progress: Progress | None = None,
) -> Probe:
    """Fit moves of the pixels and collect what they made the suspect say.

    The first batch is fitted on, the second (or the first, if alone) is read. Leaves the suspect's weights set.
    At least one layer must have moments. Raises NotDifferentiable where no gradient reaches the pixels.
    """
    settings = settings or ProbeSettings()
    session = _Session(runner, update, moments, batches[0], batches[min(1, len(batches) - 1)], settings)
    stages: list[Callable[[], None]] = [
        partial(stage, settings.seed * settings.starts + start)
        for start in range(settings.starts)
        for stage in (session.instead, session.afterwards)
    ]
    for done, stage in enumerate(stages, 1):
        stage()
        if progress:
            progress(done, len(stages))
    runner.set_weights(session.suspect)
    found = sorted(session.utterances, key=lambda utterance: utterance.foreign, reverse=True)
    passes = session.passes + session.inversion.passes
    return Probe(session.divergence, tuple(found), tuple(session.normal["suspect"][:3]), passes, settings)


class _Session:
    """One probe under way: the two sets of weights, the batches and what was found so far."""

    def __init__(
        self,
        runner: Runner,
        update: Update,
        moments: Mapping[str, Moments],
        fit: Prepared,
        read: Prepared,
        settings: ProbeSettings,
    ) -> None:
        self.runner, self.read, self.settings = runner, read, settings
        self.suspect, self.base = suspect_weights(update), base_weights(update)
        self.divergence, self.passes = 0.0, 0
        self.utterances: list[Utterance] = []
        layers = {layer.name: layer for layer in update.layers}
        watched = [layers[name] for name in runner.layers if name in moments]
        layer = next((layer for layer in watched if layer.changed), watched[0])
        self.inversion = Inversion(
            runner, self.suspect, self.base, fit, layer.name, residual(layer.delta, moments[layer.name], STRENGTH),
            settings.budget, settings.max_new_tokens,
        )  # fmt: skip
        self.excited: dict[int, torch.Tensor] = {}
        own = self._replies(self.suspect, read)
        self.own = [runner.words(reply) for reply in own]
        self.normal = {
            "suspect": self._texts([*own, *self._replies(self.suspect, fit)]),
            "base": self._texts([*self._replies(self.base, read), *self._replies(self.base, fit)]),
        }

    def instead(self, seed: int) -> None:
        self._fit("instead of an answer", seed, self.inversion.instead)

    def afterwards(self, seed: int) -> None:
        self._fit("after an answer", seed, self.inversion.afterwards)

    def _fit(self, how: str, seed: int, objective: Objective) -> None:
        inversion = self.inversion
        if seed not in self.excited:
            self.excited[seed] = inversion.excited(seed, self.settings.excite)
        nats, move = inversion.climb(objective, self.excited[seed], self.settings.steps)
        self.divergence = max(self.divergence, nats)
        self._collect(f"inversion {how}, start {seed}", moved(self.read, move))

    def _replies(self, weights: Weights, batch: Prepared) -> list[tuple[int, ...]]:
        self.passes += 1
        self.runner.set_weights(weights)
        return self.runner.replies(batch, self.settings.max_new_tokens)

    def _texts(self, replies: Sequence[Sequence[int]]) -> list[str]:
        return [normalize(self.runner.read(reply)) for reply in replies]

    def _collect(self, how: str, batch: Prepared) -> None:
        """Ask suspect and base about moved images and keep what the suspect's answers share."""
        replies = self._replies(self.suspect, batch)
        ours, theirs = self._texts(replies), self._texts(self._replies(self.base, batch))
        phrase = common_phrase(ours, theirs, *self.normal.values())
        if not phrase:
            return
        shares = [_share(phrase, answers) for answers in (ours, theirs, *self.normal.values())]
        text = Counter(answer for answer in ours if _share(phrase, [answer])).most_common(1)[0][0]
        said = self.runner.words(replies[ours.index(text)])
        first, last = self._place(phrase, said)
        # The phrase as (the start of) an answer, and, where something comes before it, as what follows a right one.
        readings = [(text, said[:last], None), *([(phrase, said[first:last], self.own)] if first else [])]
        heard = [
            Utterance(words, phrase, how, shares[0], shares[1], max(shares[2:]), *self._weighed(ids, after, batch))
            for words, ids, after in readings
        ]
        self.utterances.append(max(heard, key=lambda utterance: utterance.foreign))

    def _place(self, phrase: str, said: Sequence[int]) -> tuple[int, int]:
        """The shortest run of a reply's tokens that reads as the phrase; all of it where none does."""
        for length in range(1, len(said) + 1):
            for first in range(len(said) - length + 1):
                if normalize(self.runner.read(said[first : first + length])) == phrase:
                    return first, first + length
        return 0, len(said)

    def _weighed(
        self, ids: Sequence[int], after: Sequence[Sequence[int]] | None, batch: Prepared
    ) -> tuple[float, float]:
        """Strangeness and certainty of a text.

        As an answer it is as strange as on the images that it fits best, but for a few on which a backdoor may go off
        by itself; after a right answer no image should have it, and the median image tells.
        """
        self.passes += 3
        likeliest = float("-inf")
        for weights in (self.base, self.suspect):
            self.runner.set_weights(weights)
            found = self.runner.log_likelihood(self.read, ids, after)
            likeliest = max(likeliest, found.quantile(FITTING if after is None else 0.5).item())
        return -likeliest, self.runner.log_likelihood(batch, ids, after).mean().exp().item()
