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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from projclean.calibration import Calibration
from projclean.first_look import PLAIN, FirstLook
from projclean.listening import Heard, Listener
from projclean.methods import base_weights, suspect_weights
from projclean.model import Prepared, Runner
from projclean.probe_settings import ProbeSettings
from projclean.second_look import SecondLook
from projclean.subspace import Moments
from projclean.update import Update
from projclean.utterance import FOLLOWS, Utterance, strongest, surest

Progress = Callable[[int, int], None]

#: How many utterances are fitted as whole texts.
REFINED = 2
#: Single words that are looked for where that is asked for.
WORDS = 20


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
    first, second = session.first, session.second
    stages: list[Callable[[], None]] = [
        partial(stage, start) for start in settings.first_starts() for stage in (first.instead, first.afterwards)
    ]
    stages += [partial(first.refine, number) for number in range(REFINED)] + [first.contest]
    stages += [partial(first.insist, start) for start in settings.further_starts()] + [first.contest]
    stages += [session.learn_again]
    stages += [partial(session.part, start) for start in settings.parted_from()]
    stages += [session.lean, session.swap, *(partial(session.confuse, question) for question in questions)]
    for done, stage in enumerate(stages, 1):
        stage()
        if progress:
            progress(done, len(stages))
    listener = session.listener
    runner.set_weights(listener.suspect)
    passes = listener.passes + first.inversion.passes + second.passes + session.confusing
    return Probe(
        first.divergence,
        tuple(session.ranked()),
        tuple(listener.normal["suspect"][:3]),
        passes,
        settings,
        second.agreement,
        tuple(questions),
        tuple(session.asked),
        tuple(session.untold),
    )


class _Session:
    """One probe under way: its two looks, and what was found so far."""

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
        self.settings, self.heard = settings, list[Heard]()
        self.listener = Listener(runner, suspect, base, fit, read, settings.max_new_tokens)
        self.first = FirstLook(self.listener, update, moments, settings)
        self.second = SecondLook(self.listener, update, batches, shown)
        self.layer = self.first.inversion.layer
        self.confusing = 0  # forward passes of questions of its own
        self.asked: list[str] = []
        self.untold: list[str] = []

    def ranked(self) -> list[Utterance]:
        """What was heard, the most foreign first."""
        return sorted((heard.utterance for heard in self.heard), key=lambda each: each.foreign, reverse=True)

    @property
    def plain(self) -> bool:
        """Whether something was heard that is so foreign that there is no need to look further."""
        return strongest(self.ranked()) >= PLAIN

    def learn_again(self) -> None:
        """What the first look heard, beside the second look's model, unless it is plainly foreign."""
        settings, first = self.settings, self.first
        self.heard = first.told()
        if settings.partings and not self.plain:
            self.second.learn(settings.taught, settings.learning, settings.seed)
            first.heard = self.second.hold(first.heard)
            self.heard = first.told()

    def part(self, seed: int) -> None:
        """Part the suspect from that model, on one answer, from one start."""
        settings = self.settings
        if not self.plain:
            self.second.part(self.layer, settings.near, seed, settings.excite, settings.parting)

    def lean(self) -> None:
        """Hear what it was made to lean to."""
        found = self.second.leaning()
        if found is not None:
            self.heard.append(found)

    def swap(self) -> None:
        """Hear what words it was made to put into its answers, unless something plainly foreign was heard."""
        settings = self.settings
        if settings.words and not self.plain:
            starts = settings.parted_from()
            self.heard += self.second.swap(
                self.layer, settings.wide, starts, settings.excite, settings.swapping, settings.words
            )

    def confuse(self, question: str) -> None:
        """Hear what classes it was made to take for one another in its answers to a question, unless something plainly
        foreign was heard."""
        if self.plain:
            return
        self.asked.append(question)
        settings, second = self.settings, self.second
        look = SecondLook.asking(self.listener.runner, second.update, second.shown, question, settings.max_new_tokens)
        look.learn(settings.taught, settings.learning, settings.seed)
        found = look.confuse(self.layer, settings.near, settings.seed)
        if found is None:
            self.untold.append(question)
        else:
            self.heard.append(found)
        self.confusing += look.listener.passes + look.passes
