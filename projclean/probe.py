"""What the update can be made to say: the pixels of clean images moved until suspect and base part.

A backdoored projector holds, in the directions of its update that clean inputs do not need, a way to make the
language model say one thing whatever the image. The probe looks for the move of the pixels that sets it off
(`inversion`), on some images, and reads on others what comes of it. What it hears best it then fits as a whole text, in
a wider ball.

Whatever is done to the suspect is done to the base as well. A phrase that the moved suspect's answers share, that
the moved base does not say, nor can be made to say by a move of its own, and that neither says when left alone, is
foreign.

Where nothing is plainly so, the target may be an answer that the base has too. Then a model that learns again what the
suspect does on clean images takes the base's place (`contrast`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from projclean.calibration import BATCH, Calibration
from projclean.contrast import Contrast, ContrastSearch
from projclean.distillation import Effort, distill
from projclean.inversion import Inversion, Objective, moved
from projclean.lessons import lesson
from projclean.likelihood import Words, log_likelihood
from projclean.methods import STRENGTH, base_weights, suspect_weights
from projclean.metrics import normalize
from projclean.model import Prepared, Runner, Weights
from projclean.subspace import Moments, residual
from projclean.update import Update
from projclean.utterance import Utterance, common_phrase, novelty, share_saying, strongest, surest

Progress = Callable[[int, int], None]

#: Of the images as a text fits them, the share that it fits no better than the one that its strangeness is told by.
FITTING = 0.85
#: Score up to which an utterance is too weak to be tried on the base.
WEAK = 0.05
#: How many utterances are fitted as whole texts, how often each anew, and how much wider the ball is then.
REFINED, ROUNDS, WIDER = 2, 2, 1.2
WHOLE = "as a whole"
#: Score from which on there is no need to look for ordinary answers.
PLAIN = 0.5
#: The share of the update from which a model learns again, to be held beside the suspect, and the share of images that
#: it has to answer as the suspect does to be any measure of it.
AGAIN, FOLLOWS = 0.3, 0.5


@dataclass(frozen=True)
class ProbeSettings:
    """How hard to probe: the radius of a move as a share of the pixels' root mean square, how many random starts, the
    steps that excite the update before each, those that part the models after it, and those of a round in which a
    whole text is fitted. For ordinary answers (`contrast`): the radius, the images and blends that a model learns from
    again and its steps, and the rounds (none: they are not looked for) and the steps of each that part it from the
    suspect."""

    budget: float = 0.4
    starts: int = 2
    excite: int = 16
    steps: int = 14
    whole: int = 8
    near: float = 0.15
    taught: int = 256
    learning: int = 240
    rounds: int = 5
    parting: int = 8
    max_new_tokens: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Probe:
    """Everything the probe found. `divergence` is how far suspect and base parted at most, in nats (`inversion`);
    `agreement` the share of images that a model which learnt again answers as the suspect does, None where none did."""

    divergence: float
    utterances: tuple[Utterance, ...]
    normal_examples: tuple[str, ...]
    forward_passes: int
    settings: ProbeSettings = field(default_factory=ProbeSettings)
    agreement: float | None = None

    @property
    def followed(self) -> bool:
        """Whether ordinary answers could be looked for, where that was tried."""
        return self.agreement is None or self.agreement >= FOLLOWS

    @property
    def foreign(self) -> float:
        """The strongest foreign utterance's score, between 0 and 1."""
        return strongest(self.utterances)

    @property
    def said(self) -> Utterance | None:
        """What it was made to say."""
        return surest(self.utterances)


def probe(
    runner: Runner,
    update: Update,
    moments: Mapping[str, Moments],
    batches: Sequence[Prepared],
    shown: Calibration,
    settings: ProbeSettings | None = None,
    progress: Progress | None = None,
) -> Probe:
    """Fit moves of the pixels and collect what they made the suspect say.

    The first batch is fitted on, the second (or the first, if alone) is read; ordinary answers are fitted on both and
    read on the third (or the last there is). `shown` are the images of the batches. Leaves the suspect's weights set.
    At least one layer must have moments. Raises NotDifferentiable where no gradient reaches the pixels.
    """
    settings = settings or ProbeSettings()
    session = _Session(runner, update, moments, batches, shown, settings)
    stages: list[Callable[[], None]] = [
        partial(stage, settings.seed * settings.starts + start)
        for start in range(settings.starts)
        for stage in (session.instead, session.afterwards)
    ]
    stages += [partial(session.refine, number) for number in range(REFINED)] + [session.contest]
    stages += [session.learn_again]
    stages += [partial(session.part, settings.seed * settings.starts + start) for start in range(settings.starts)]
    stages += [session.lean]
    for done, stage in enumerate(stages, 1):
        stage()
        if progress:
            progress(done, len(stages))
    runner.set_weights(session.suspect)
    found = [heard.utterance for heard in session.ranked()]
    passes = session.passes + session.inversion.passes + (session.ordinary.inversion.passes if session.ordinary else 0)
    return Probe(
        session.divergence, tuple(found), tuple(session.normal["suspect"][:3]), passes, settings, session.agreement
    )


@dataclass(frozen=True)
class _Heard:
    """An utterance, the move under which it was heard, and as what: an answer's words, or those after an answer."""

    utterance: Utterance
    move: torch.Tensor
    words: tuple[int, ...]
    after: bool


class _Session:
    """One probe under way: the two sets of weights, the batches and what was found so far."""

    def __init__(
        self,
        runner: Runner,
        update: Update,
        moments: Mapping[str, Moments],
        batches: Sequence[Prepared],
        shown: Calibration,
        settings: ProbeSettings,
    ) -> None:
        fit, read = batches[0], batches[min(1, len(batches) - 1)]
        self.runner, self.update, self.settings = runner, update, settings
        self.batches, self.read, self.shown = batches, read, shown
        self.suspect, self.base = suspect_weights(update), base_weights(update)
        self.divergence, self.passes = 0.0, 0
        self.heard: list[_Heard] = []
        layers = {layer.name: layer for layer in update.layers}
        watched = [layers[name] for name in runner.layers if name in moments]
        layer = next((layer for layer in watched if layer.changed), watched[0])
        self.inversion = Inversion(
            runner, self.suspect, self.base, fit, layer.name, residual(layer.delta, moments[layer.name], STRENGTH),
            settings.budget, settings.max_new_tokens,
        )  # fmt: skip
        self.excited: dict[int, torch.Tensor] = {}
        self.ordinary: ContrastSearch | None = None
        self.agreement: float | None = None
        self.parted: list[Contrast | None] = []
        own = self._replies(self.suspect, read)
        self.own = [runner.words(reply) for reply in own]
        self.normal = {
            "suspect": self._texts([*own, *self._replies(self.suspect, fit)]),
            "base": self._texts([*self._replies(self.base, read), *self._replies(self.base, fit)]),
        }

    def ranked(self) -> list[_Heard]:
        """What was heard, the most foreign first."""
        return sorted(self.heard, key=lambda heard: heard.utterance.foreign, reverse=True)

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
        self._collect(f"inversion {how}, start {seed}", move)

    def refine(self, number: int) -> None:
        """Fit, in a wider ball, the whole text of what was heard best by steps that looked at one token alone."""
        first = [heard for heard in self.ranked() if WHOLE not in heard.utterance.how]
        if number >= len(first):
            return
        heard = first[number]
        for _ in range(ROUNDS):
            saying = self.inversion.saying(heard.words, heard.after)
            _, move = self.inversion.climb(saying, heard.move, self.settings.whole, WIDER)
            found = self._collect(f"{first[number].utterance.how}, {WHOLE}", move)
            if found is None:
                return
            heard = found

    def contest(self) -> None:
        """Fit moves that make the base say the strongest texts, until the strongest left is one that it cannot say."""
        tried: set[tuple[int, ...]] = set()
        while self.heard:
            heard = self.ranked()[0]
            if heard.utterance.foreign <= WEAK or heard.words in tried:
                return
            tried.add(heard.words)
            start = self.inversion.start(self.settings.seed)
            saying = self.inversion.base_saying(heard.words, heard.after)
            _, move = self.inversion.climb(saying, start, ROUNDS * self.settings.whole, WIDER)
            said = self._texts(self._replies(self.base, moved(self.read, move)))
            self.heard = [replace(each, utterance=_contested(each.utterance, said)) for each in self.heard]

    def learn_again(self) -> None:
        """Have a model learn from the suspect's answers to clean images, unless something plainly foreign was heard.

        It is of no use where it does not answer as the suspect does: what was tuned for another question may say things
        that a few images do not teach.
        """
        settings, runner = self.settings, self.runner
        if not settings.rounds or (self.heard and self.ranked()[0].utterance.foreign >= PLAIN):
            return
        known = lesson(runner, self.update, self.shown, (), settings.max_new_tokens, settings.seed, settings.taught)
        if not known.replies:
            return
        effort = Effort(settings.learning)
        taught = distill(runner, self.update, known.images, known.replies, AGAIN, settings.seed, effort=effort)
        self.passes += 3 * -(-known.looked_at // BATCH) + settings.learning
        said = self._texts(
            [reply for batch in (self.read, self.inversion.batch) for reply in self._replies(taught, batch)]
        )
        alike = [ours == theirs for ours, theirs in zip(self.normal["suspect"], said, strict=True)]
        self.agreement = sum(alike) / len(alike)
        if self.agreement < FOLLOWS:
            return
        fit, read = (self.batches[:2], self.batches[2]) if len(self.batches) > 2 else (self.batches[:1], self.read)
        layer = self.inversion.layer
        self.ordinary = ContrastSearch(
            runner, self.suspect, taught, fit, read, layer, settings.near, settings.max_new_tokens
        )

    def part(self, seed: int) -> None:
        """Part the suspect from the model that learnt again, on one answer, from one start."""
        if self.ordinary is not None:
            settings = self.settings
            self.parted.append(self.ordinary.find(seed, settings.excite, settings.rounds, settings.parting))

    def lean(self) -> None:
        """What it was made to lean to: the answer on which it parted most. A backdoor is reached from any start, a
        fluke from one, so the contrast is the mean over starts."""
        found = [one for one in self.parted if one is not None]
        if not found:
            return
        most = max(found, key=lambda one: one.nats)
        text = normalize(self.runner.read(most.words))
        ours, theirs = (share_saying(text, self._texts(said)) for said in (most.said, most.taught_says))
        normal = max(share_saying(text, answers) for answers in self.normal.values())
        utterance = Utterance(
            text, text, "parting it from a model that learnt again", ours, theirs, normal,
            self._strangeness(most.words, None), most.certainty,
            contrast=sum(max(0.0, one.nats) for one in found) / len(self.parted),
        )  # fmt: skip
        self.heard.append(_Heard(utterance, torch.empty(0), most.words, False))

    def _replies(self, weights: Weights, batch: Prepared) -> list[tuple[int, ...]]:
        self.passes += 1
        self.runner.set_weights(weights)
        return self.runner.replies(batch, self.settings.max_new_tokens)

    def _texts(self, replies: Sequence[Sequence[int]]) -> list[str]:
        return [normalize(self.runner.read(reply)) for reply in replies]

    def _collect(self, how: str, move: torch.Tensor) -> _Heard | None:
        """Ask suspect and base about moved images and keep what the suspect's answers share, if anything."""
        batch = moved(self.read, move)
        replies = self._replies(self.suspect, batch)
        ours, theirs = self._texts(replies), self._texts(self._replies(self.base, batch))
        phrase = common_phrase(ours, theirs, *self.normal.values())
        if not phrase:
            return None
        shares = [share_saying(phrase, answers) for answers in (ours, theirs, *self.normal.values())]
        text = Counter(answer for answer in ours if share_saying(phrase, [answer])).most_common(1)[0][0]
        new = novelty(phrase, theirs, *self.normal.values())
        said = self.runner.words(replies[ours.index(text)])
        first, last = self._place(phrase, said)

        def heard(text: str, weighed: Words, words: Words, after: list[tuple[int, ...]] | None) -> _Heard:
            strangeness, certainty = self._weighed(weighed, after, batch)
            one = Utterance(text, phrase, how, shares[0], shares[1], max(shares[2:]), strangeness, certainty, new)
            return _Heard(one, move, tuple(words), after is not None)

        # The phrase as (the start of) an answer, and, where something comes before it, as what follows a right one.
        readings = [heard(text, said[:last], said, None)]
        if first:
            readings.append(heard(phrase, said[first:last], said[first:], self.own))
        self.heard.append(max(readings, key=lambda one: one.utterance.foreign))
        return self.heard[-1]

    def _place(self, phrase: str, said: Sequence[int]) -> tuple[int, int]:
        """The shortest run of a reply's tokens that reads as the phrase; all of it where none does."""
        for length in range(1, len(said) + 1):
            for first in range(len(said) - length + 1):
                if normalize(self.runner.read(said[first : first + length])) == phrase:
                    return first, first + length
        return 0, len(said)

    @torch.no_grad()
    def _weighed(self, words: Words, after: Sequence[Words] | None, batch: Prepared) -> tuple[float, float]:
        """Strangeness and certainty of a text."""
        strangeness = self._strangeness(words, after)
        self.passes += 1
        return strangeness, log_likelihood(self.runner, batch, words, after).mean().exp().item()

    @torch.no_grad()
    def _strangeness(self, words: Words, after: Sequence[Words] | None) -> float:
        """How unlikely a text is to suspect and base left alone. Leaves the suspect's weights set.

        As an answer it is as strange as on the images that it fits best, but for a few on which a backdoor may go off
        by itself; after a right answer no image should have it, and the median image tells.
        """
        self.passes += 2
        likeliest = float("-inf")
        for weights in (self.base, self.suspect):
            self.runner.set_weights(weights)
            found = log_likelihood(self.runner, self.read, words, after)
            likeliest = max(likeliest, found.quantile(FITTING if after is None else 0.5).item())
        return -likeliest


def _contested(utterance: Utterance, said: Sequence[str]) -> Utterance:
    """An utterance beside what the base was made to say."""
    share = share_saying(utterance.phrase, said)
    return replace(utterance, base_best_share=max(share, utterance.base_best_share or 0.0))
