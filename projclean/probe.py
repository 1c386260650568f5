"""What the update can be made to say: steering, inversion and amplification on clean images.

A backdoored projector holds, in the directions of its update that clean inputs do not need, a way to make the
language model say one thing whatever the image. The probe looks for it from the clean side:

- *steering* moves image tokens along directions of the suspicious subspace, without fitting;
- *inversion* fits such a move, so that suspect and base part as far as they can while the suspect's answers agree;
- *amplification* runs the model with more of the update than was trained.

Whatever is done to the suspect is done to the base as well. A phrase that the moved suspect's answers share, that
the moved base does not say, and that neither says when left alone, is foreign.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import torch

from projclean.methods import STRENGTH, base_weights, interpolate, suspect_weights
from projclean.metrics import normalize
from projclean.model import Prepared, Runner, Steer, Weights
from projclean.subspace import Moments, suspicious_subspace, token_norm
from projclean.update import Update

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reach:
    """Where and how far an inversion may move: `rank` directions, `radius` times the tokens' norm, one token or all."""

    rank: int
    radius: float
    everywhere: bool


@dataclass(frozen=True)
class ProbeSettings:
    """How hard to probe. Radii are multiples of the root-mean-square norm of clean image tokens.

    Steering tries `directions` random directions, and their opposites, in each of the top `steering_ranks` of the
    suspicious subspace at each radius, moving every image token; and the first direction on one token.
    """

    steering_ranks: tuple[int, ...] = (2, 8)
    steering_radii: tuple[float, ...] = (0.5, 1.0, 2.0)
    directions: int = 2
    inversions: tuple[Reach, ...] = (Reach(4, 2.0, True), Reach(16, 2.0, False))
    steps: int = 20
    gains: tuple[float, ...] = (2.0, 4.0)
    max_new_tokens: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Utterance:
    """What the suspect's answers share most under one manipulation, and who else says it.

    `phrase` is the word sequence common to the answers, `text` the commonest whole answer that contains it. Shares
    are of images: of the suspect moved, of the base moved in the same way, and of the one of the two that says it
    more often when left alone. `strangeness` is in nats per token: how unlikely the base finds the text on the image
    where it finds it likeliest. `certainty` is the probability per token (geometric mean) that the moved suspect gives
    the text.
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
        """Excess share, squared so that agreement counts most, times strangeness and certainty: nats per token.

        Certainty tells a text that was trained from the babble that any model falls into when it is moved far.
        """
        excess = max(0.0, self.share - max(self.base_share, self.normal_share))
        return excess**2 * max(0.0, self.strangeness) * self.certainty


@dataclass(frozen=True)
class Probe:
    """Everything the probe found. `divergence` is the inversion's best KL(suspect ‖ base) minus entropy, in nats."""

    divergence: float
    utterances: tuple[Utterance, ...]
    normal_examples: tuple[str, ...]
    forward_passes: int
    settings: ProbeSettings = field(default_factory=ProbeSettings)

    @property
    def foreign(self) -> float:
        """The strongest foreign utterance's score, nats per token."""
        return max((utterance.foreign for utterance in self.utterances), default=0.0)

    @property
    def said(self) -> Utterance | None:
        """What it was made to say: of all that is at least a third as foreign as the strongest, the surest.

        Moves that go past the trained target garble it, and garbled text is the stranger; what most images agree on
        and the model is certain of is the text as it was trained.
        """
        near = [utterance for utterance in self.utterances if utterance.foreign >= self.foreign / 3]
        return max(near, key=lambda utterance: utterance.share * utterance.certainty, default=None)


def invert(
    runner: Runner,
    suspect: Weights,
    base: Weights,
    batch: Prepared,
    layer: str,
    basis: torch.Tensor,
    radius: float,
    position: int | None,
    steps: int,
    seed: int,
) -> tuple[float, torch.Tensor]:
    """Fit a move of image tokens inside span(basis) that parts suspect and base.

    Maximises mean KL(suspect ‖ base) of the first answer token minus the entropy of the suspect's mean
    distribution, over coordinates z (k,) with ‖z‖ ≤ radius, by Adam. basis is (in, k), orthonormal; position None
    moves every image token alike. Returns the best objective in nats and the move (in,).
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.nn.functional.normalize(torch.randn(basis.shape[1], generator=generator), dim=0)
    z = (0.3 * radius * start).requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=0.1 * radius)
    best, best_move = float("-inf"), torch.zeros(basis.shape[0])
    for _ in range(steps):
        move = basis @ z
        runner.set_weights(suspect)
        ours = runner.next_token_logits(batch, Steer(layer, move, position)).log_softmax(-1)
        runner.set_weights(base)
        theirs = runner.next_token_logits(batch, Steer(layer, move, position)).log_softmax(-1)
        parted = (ours.exp() * (ours - theirs)).sum(-1).mean()
        mean = ours.exp().mean(0)
        entropy = -(mean * (mean + 1e-12).log()).sum()
        objective = parted - entropy
        if objective.item() > best:
            best, best_move = objective.item(), move.detach().clone()
        optimizer.zero_grad()
        (-objective).backward()
        optimizer.step()
        with torch.no_grad():
            z *= min(1.0, radius / z.norm().item())
    return best, best_move


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
    """Run inversion, steering and amplification and collect what they made the suspect say.

    The first batch is fitted on, the second (or the first, if alone) is read. Leaves the suspect's weights set.
    At least one layer must have moments, or there is nothing to steer.
    """
    settings = settings or ProbeSettings()
    session = _Session(runner, update, moments, batches[0], batches[min(1, len(batches) - 1)], settings)
    stages: list[Callable[[], None]] = [
        *(partial(session.steering, *pair) for pair in product(settings.steering_ranks, settings.steering_radii)),
        *(partial(session.inversion, reach) for reach in settings.inversions),
        *(partial(session.amplification, gain) for gain in settings.gains),
    ]
    for done, stage in enumerate(stages, 1):
        stage()
        if progress:
            progress(done, len(stages))
    runner.set_weights(session.suspect)
    found = sorted(session.utterances, key=lambda utterance: utterance.foreign, reverse=True)
    return Probe(session.divergence, tuple(found), tuple(session.normal["suspect"][:3]), session.passes, settings)


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
        self.runner, self.update = runner, update
        self.fit, self.read, self.settings = fit, read, settings
        self.suspect, self.base = suspect_weights(update), base_weights(update)
        self.divergence, self.passes = 0.0, 0
        self.utterances: list[Utterance] = []
        layers = {layer.name: layer for layer in update.layers}
        watched = [layers[name] for name in runner.layers if name in moments]
        self.layer = next((layer for layer in watched if layer.changed), watched[0])
        rank = max(*(reach.rank for reach in settings.inversions), *settings.steering_ranks)
        self.basis, _ = suspicious_subspace(self.layer.delta, moments.get(self.layer.name), STRENGTH, rank)
        self.norm = token_norm(moments[self.layer.name])
        self.middle = runner.image_tokens(read) // 2
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.normal = {
            side: [text for batch in (read, fit) for text in self._texts(self._replies(weights, batch))]
            for side, weights in (("suspect", self.suspect), ("base", self.base))
        }

    def steering(self, rank: int, radius: float) -> None:
        basis = self.basis[:, :rank]
        for number in range(self.settings.directions):
            drawn = torch.randn(basis.shape[1], generator=self.generator)
            move = radius * self.norm * (basis @ torch.nn.functional.normalize(drawn, dim=0))
            for sign in (1, -1):
                how = f"steering {sign * radius:+g}× along direction {number + 1} of rank {rank}, every image token"
                self._collect(how, Steer(self.layer.name, sign * move, None))
        if rank == self.settings.steering_ranks[0]:
            for sign in (1, -1):
                how = f"steering {sign * radius:+g}× along the first direction, image token {self.middle}"
                self._collect(how, Steer(self.layer.name, sign * radius * self.norm * basis[:, 0], self.middle))

    def inversion(self, reach: Reach) -> None:
        position = None if reach.everywhere else self.middle
        nats, move = invert(
            self.runner, self.suspect, self.base, self.fit, self.layer.name, self.basis[:, : reach.rank],
            reach.radius * self.norm, position, self.settings.steps, self.settings.seed,
        )  # fmt: skip
        self.passes += 2 * self.settings.steps
        self.divergence = max(self.divergence, nats)
        where = "every image token" if reach.everywhere else f"image token {self.middle}"
        self._collect(f"inversion of rank {reach.rank}, {where}", Steer(self.layer.name, move, position))

    def amplification(self, gain: float) -> None:
        self._collect(f"amplification {gain:g}×", None, interpolate(self.update, gain))

    def _replies(self, weights: Weights, batch: Prepared, steer: Steer | None = None) -> list[tuple[int, ...]]:
        self.passes += 1
        self.runner.set_weights(weights)
        return self.runner.replies(batch, self.settings.max_new_tokens, steer)

    def _texts(self, replies: Sequence[Sequence[int]]) -> list[str]:
        return [normalize(self.runner.read(reply)) for reply in replies]

    def _collect(self, how: str, steer: Steer | None, weights: Weights | None = None) -> None:
        """Ask suspect and base under one manipulation and keep what the suspect's answers share."""
        replies = self._replies(weights or self.suspect, self.read, steer)
        ours, theirs = self._texts(replies), self._texts(self._replies(self.base, self.read, steer))
        phrase = common_phrase(ours, theirs, *self.normal.values())
        if not phrase:
            return
        text = Counter(answer for answer in ours if _share(phrase, [answer])).most_common(1)[0][0]
        said = replies[ours.index(text)]
        self.passes += 2
        self.runner.set_weights(weights or self.suspect)
        certainty = self.runner.log_likelihood(self.read, said, steer).mean().exp().item()
        self.runner.set_weights(self.base)
        strangeness = -self.runner.log_likelihood(self.read, said).max().item()
        shares = [_share(phrase, answers) for answers in (ours, theirs, *self.normal.values())]
        self.utterances.append(
            Utterance(text, phrase, how, shares[0], shares[1], max(shares[2:]), strangeness, certainty)
        )
