"""The probe's first look: what a move of the pixels, fitted from random starts, makes the suspect say and the base not.

A backdoor is reached from wherever a climb starts, babble where it happens to lead. So an utterance counts as far as
the starts agree on it (`utterance.reached`), and where they do not on the strongest, more are tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from projclean.climb import Objective
from projclean.inversion import Inversion, moved
from projclean.likelihood import Words
from projclean.listening import Heard, Listener
from projclean.methods import STRENGTH
from projclean.metrics import normalize
from projclean.probe_settings import FURTHER, ProbeSettings
from projclean.subspace import Moments, residual
from projclean.update import Update
from projclean.utterance import WEAK, Utterance, common_phrase, novelty, reached, share_saying

#: How often an utterance is fitted anew as a whole text, and how much wider the ball is then.
ROUNDS, WIDER = 2, 1.2
WHOLE = "as a whole"
#: The reach of an utterance from which on starts agree on it, and the strength from which on it is worth more of them.
AGREED, WORTH = 0.75, 0.1
#: Score from which on there is no need to look any further.
PLAIN = 0.4


class FirstLook:
    """Moves fitted from one start after the other, and what was `heard` under them. `divergence` is how far suspect and
    base parted at most, in nats."""

    def __init__(
        self, listener: Listener, update: Update, moments: Mapping[str, Moments], settings: ProbeSettings
    ) -> None:
        self.listener, self.settings = listener, settings
        self.heard, self.divergence, self._starts = list[Heard](), 0.0, settings.starts
        layers = {layer.name: layer for layer in update.layers}
        watched = [layers[name] for name in listener.runner.layers if name in moments]
        layer = next((layer for layer in watched if layer.changed), watched[0])
        self.inversion = Inversion(
            listener.runner, listener.suspect, listener.base, listener.fit, layer.name,
            residual(layer.delta, moments[layer.name], STRENGTH), settings.budget, settings.max_new_tokens,
        )  # fmt: skip
        self._excited: dict[int, torch.Tensor] = {}
        self._contested: set[tuple[int, ...]] = set()

    def ranked(self) -> list[Heard]:
        """What was heard, the most foreign first."""
        return sorted(self.heard, key=lambda heard: heard.utterance.foreign, reverse=True)

    def told(self) -> list[Heard]:
        """What was heard, each with its reach."""
        utterances = reached([heard.utterance for heard in self.heard], self._starts)
        return [replace(heard, utterance=one) for heard, one in zip(self.heard, utterances, strict=True)]

    def instead(self, seed: int) -> None:
        """What is said instead of an answer, under a move from one start."""
        self._fit("instead of an answer", seed, self.inversion.instead)

    def afterwards(self, seed: int) -> None:
        """What is said after one, likewise."""
        self._fit("after an answer", seed, self.inversion.afterwards)

    def _fit(self, how: str, seed: int, objective: Objective) -> None:
        inversion = self.inversion
        if seed not in self._excited:
            self._excited[seed] = inversion.excited(seed, self.settings.excite)
        nats, move = inversion.climb(objective, self._excited[seed], self.settings.steps)
        self.divergence = max(self.divergence, nats)
        further = "" if seed in self.settings.first_starts() else "further "
        self._collect(f"inversion {how}, {further}start {seed % FURTHER}", move, seed)

    def refine(self, number: int) -> None:
        """Fit, in a wider ball, the whole text of what was heard best by steps that looked at one token alone."""
        first = [heard for heard in self.ranked() if WHOLE not in heard.utterance.how]
        if number < len(first):
            self._refine(first[number])

    def _refine(self, first: Heard) -> None:
        heard = first
        for _ in range(ROUNDS):
            saying = self.inversion.saying(heard.words, heard.after)
            _, move = self.inversion.climb(saying, heard.move, self.settings.whole, WIDER)
            found = self._collect(f"{first.utterance.how}, {WHOLE}", move, first.utterance.start)
            if found is None:
                return
            heard = found

    def insist(self, seed: int) -> None:
        """Another start, unless starts agree on the strongest utterance, or it is plain or not worth it."""
        strongest = max((heard.utterance for heard in self.told()), key=lambda one: one.strength, default=None)
        if strongest is None or strongest.strength < WORTH or strongest.reach >= AGREED or strongest.foreign >= PLAIN:
            return
        self._starts += 1
        self.instead(seed)
        self.afterwards(seed)
        theirs = [heard for heard in self.ranked() if heard.utterance.start == seed]
        if theirs:
            self._refine(theirs[0])

    def contest(self) -> None:
        """Fit moves that make the base say the strongest texts, until the strongest left is one that it cannot say."""
        while self.heard:
            heard = self.ranked()[0]
            if heard.utterance.foreign <= WEAK or heard.words in self._contested:
                return
            self._contested.add(heard.words)
            start = self.inversion.start(self.settings.seed)
            saying = self.inversion.base_saying(heard.words, heard.after)
            _, move = self.inversion.climb(saying, start, ROUNDS * self.settings.whole, WIDER)
            said = self.listener.texts(self.listener.replies(self.listener.base, moved(self.listener.read, move)))
            self.heard = [replace(each, utterance=_contested(each.utterance, said)) for each in self.heard]

    def _collect(self, how: str, move: torch.Tensor, seed: int | None) -> Heard | None:
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
            one = Utterance(
                text, phrase, how, shares[0], shares[1], max(shares[2:]), strangeness, certainty, new, start=seed
            )
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
