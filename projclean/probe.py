"""What the update can be made to say: the pixels of clean images moved until suspect and base part.

A backdoored projector holds, in the directions of its update that clean inputs do not need, a way to make the
language model say one thing whatever the image. The probe looks for the move of the pixels that sets it off
(`inversion`), on some images, and reads on others what comes of it. What it hears best it then fits as a whole text, in
a wider ball.

Whatever is done to the suspect is done to the base as well. A phrase that the moved suspect's answers share, that
the moved base does not say, nor can be made to say by a move of its own, and that neither says when left alone, is
foreign.

Where nothing is plainly so, a model that learns again what the suspect does on clean images takes the base's place
(`second_look`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from projclean.calibration import Calibration
from projclean.climb import Objective
from projclean.inversion import Inversion, moved
from projclean.likelihood import Words
from projclean.listening import Heard, Listener
from projclean.methods import STRENGTH, base_weights, suspect_weights
from projclean.metrics import normalize
from projclean.model import Prepared, Runner
from projclean.second_look import SecondLook
from projclean.subspace import Moments, residual
from projclean.update import Update
from projclean.utterance import FOLLOWS, WEAK, Utterance, common_phrase, novelty, share_saying, strongest, surest

Progress = Callable[[int, int], None]

#: How many utterances are fitted as whole texts, how often each anew, and how much wider the ball is then.
REFINED, ROUNDS, WIDER = 2, 2, 1.2
WHOLE = "as a whole"
#: Score from which on there is no need of a second look.
PLAIN = 0.5
#: Single words that are looked for where that is asked for.
WORDS = 20


@dataclass(frozen=True)
class ProbeSettings:
    """How hard to probe: the radius of a move as a share of the pixels' root mean square, how many random starts, the
    steps that excite the update before each, those that part the models after it, and those of a round in which a
    whole text is fitted. For the second look: the images and blends that a model learns from again and its steps; and
    to part it from the suspect the radius, the random starts (none: there is no second look) and the steps of each; and
    how many single words are looked for from those starts (none unless asked), the radius for them and the steps of
    those that go on."""

    budget: float = 0.4
    starts: int = 2
    excite: int = 16
    steps: int = 14
    whole: int = 8
    taught: int = 256
    learning: int = 240
    near: float = 0.15
    partings: int = 4
    parting: int = 32
    words: int = 0
    wide: float = 0.3
    swapping: int = 24
    max_new_tokens: int = 20
    seed: int = 0

    def parted_from(self) -> range:
        """The seeds of the second look's random starts."""
        return range(self.seed * self.partings, (self.seed + 1) * self.partings)


@dataclass(frozen=True)
class Probe:
    """Everything the probe found. `divergence` is how far suspect and base parted at most, in nats (`inversion`);
    `agreement` the share of images that a model which learnt again answers as the suspect does, None where none did;
    `questions` are those of which it was to tell whether classes are taken for one another, `asked` those of them that
    were asked (none once something plainly foreign was heard), `untold` those where it could not tell: the answers are
    no classes, or the model that learnt again does not give them."""

    divergence: float
    utterances: tuple[Utterance, ...]
    normal_examples: tuple[str, ...]
    forward_passes: int
    settings: ProbeSettings = field(default_factory=ProbeSettings)
    agreement: float | None = None
    questions: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()

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
    questions: Sequence[str] = (),
) -> Probe:
    """Fit moves of the pixels and collect what they made the suspect say.

    The first batch is fitted on, the second (or the first, if alone) is read; ordinary answers are fitted on both and
    read on the third (or the last there is). `shown` are the images of the batches. `questions` that the model is for
    are asked about them too, to tell classes that it takes for one another. Leaves the suspect's weights set.
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
    stages += [partial(session.part, start) for start in settings.parted_from()]
    stages += [session.lean, session.swap, *(partial(session.confuse, question) for question in questions)]
    for done, stage in enumerate(stages, 1):
        stage()
        if progress:
            progress(done, len(stages))
    listener, second = session.listener, session.second
    runner.set_weights(listener.suspect)
    found = [heard.utterance for heard in session.ranked()]
    passes = listener.passes + session.inversion.passes + second.passes + session.confusing
    normal = tuple(listener.normal["suspect"][:3])
    return Probe(
        session.divergence,
        tuple(found),
        normal,
        passes,
        settings,
        second.agreement,
        tuple(questions),
        tuple(session.asked),
        tuple(session.untold),
    )


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
        suspect, base = suspect_weights(update), base_weights(update)
        self.settings, self.divergence, self.heard = settings, 0.0, list[Heard]()
        self.listener = Listener(runner, suspect, base, fit, read, settings.max_new_tokens)
        self.second = SecondLook(self.listener, update, batches, shown)
        layers = {layer.name: layer for layer in update.layers}
        watched = [layers[name] for name in runner.layers if name in moments]
        layer = next((layer for layer in watched if layer.changed), watched[0])
        self.inversion = Inversion(
            runner, suspect, base, fit, layer.name, residual(layer.delta, moments[layer.name], STRENGTH),
            settings.budget, settings.max_new_tokens,
        )  # fmt: skip
        self.excited: dict[int, torch.Tensor] = {}
        self.confusing = 0  # forward passes of questions of its own
        self.asked: list[str] = []
        self.untold: list[str] = []

    def ranked(self) -> list[Heard]:
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
            said = self.listener.texts(self.listener.replies(self.listener.base, moved(self.listener.read, move)))
            self.heard = [replace(each, utterance=_contested(each.utterance, said)) for each in self.heard]

    def learn_again(self) -> None:
        """The second look's model, held beside the suspect, unless something plainly foreign was heard."""
        settings = self.settings
        if settings.partings and not (self.heard and self.ranked()[0].utterance.foreign >= PLAIN):
            self.second.learn(settings.taught, settings.learning, settings.seed)
            self.heard = self.second.hold(self.heard)

    def part(self, seed: int) -> None:
        """Part the suspect from that model, on one answer, from one start."""
        settings = self.settings
        self.second.part(self.inversion.layer, settings.near, seed, settings.excite, settings.parting)

    def lean(self) -> None:
        """Hear what it was made to lean to."""
        found = self.second.leaning(bool(self.settings.words))
        if found is not None:
            self.heard.append(found)

    def swap(self) -> None:
        """Hear what words it was made to put into its answers, unless something plainly foreign was heard."""
        settings = self.settings
        if settings.words and not (self.heard and self.ranked()[0].utterance.foreign >= PLAIN):
            layer, budget, starts = self.inversion.layer, settings.wide, settings.parted_from()
            self.heard += self.second.swap(layer, budget, starts, settings.excite, settings.swapping, settings.words)

    def confuse(self, question: str) -> None:
        """Hear what classes it was made to take for one another in its answers to a question, unless something plainly
        foreign was heard."""
        if self.heard and self.ranked()[0].utterance.foreign >= PLAIN:
            return
        self.asked.append(question)
        settings, second = self.settings, self.second
        look = SecondLook.asking(self.listener.runner, second.update, second.shown, question, settings.max_new_tokens)
        look.learn(settings.taught, settings.learning, settings.seed)
        found = look.confuse(self.inversion.layer, settings.near, settings.seed)
        if found is None:
            self.untold.append(question)
        else:
            self.heard.append(found)
        self.confusing += look.listener.passes + look.passes

    def _collect(self, how: str, move: torch.Tensor) -> Heard | None:
        """Ask suspect and base about moved images and keep what the suspect's answers share, if anything."""
        listener = self.listener
        batch = moved(listener.read, move)
        replies = listener.replies(listener.suspect, batch)
        ours, theirs = listener.texts(replies), listener.texts(listener.replies(listener.base, batch))
        normal = listener.normal.values()
        phrase = common_phrase(ours, theirs, *normal)
        if not phrase:
            return None
        shares = [share_saying(phrase, answers) for answers in (ours, theirs, *normal)]
        text = Counter(answer for answer in ours if share_saying(phrase, [answer])).most_common(1)[0][0]
        new = novelty(phrase, theirs, *normal)
        said = listener.runner.words(replies[ours.index(text)])
        first, last = self._place(phrase, said)

        def heard(text: str, weighed: Words, words: Words, after: list[tuple[int, ...]] | None) -> Heard:
            strangeness = listener.strangeness(weighed, after)
            certainty = listener.certainty(weighed, after, batch)
            one = Utterance(text, phrase, how, shares[0], shares[1], max(shares[2:]), strangeness, certainty, new)
            return Heard(one, move, tuple(words), after is not None)

        # The phrase as (the start of) an answer, and, where something comes before it, as what follows a right one.
        readings = [heard(text, said[:last], said, None)]
        if first:
            readings.append(heard(phrase, said[first:last], said[first:], listener.own))
        self.heard.append(max(readings, key=lambda one: one.utterance.foreign))
        return self.heard[-1]

    def _place(self, phrase: str, said: Sequence[int]) -> tuple[int, int]:
        """The shortest run of a reply's tokens that reads as the phrase; all of it where none does."""
        runner = self.listener.runner
        for length in range(1, len(said) + 1):
            for first in range(len(said) - length + 1):
                if normalize(runner.read(said[first : first + length])) == phrase:
                    return first, first + length
        return 0, len(said)


def _contested(utterance: Utterance, said: Sequence[str]) -> Utterance:
    """An utterance beside what the base was made to say."""
    share = share_saying(utterance.phrase, said)
    return replace(utterance, base_best_share=max(share, utterance.base_best_share or 0.0))
