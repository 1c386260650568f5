"""What the update can be made to say: steering, inversion and amplification on clean images.

A backdoored projector holds, in the directions of its update that clean inputs do not need, a way to make the
language model say one thing whatever the image. The probe looks for it from the clean side:

- *inversion* fits one move of one image token inside the suspicious subspace, so that suspect and base part as far
  as they can while the suspect's answers agree;
- *steering* makes such moves along single directions, without fitting;
- *amplification* runs the model with more of the update than was trained.

Whatever is done to the suspect is done to the base as well. What the suspect then says on many images, and the
base does not, and neither of them would say normally, is a foreign utterance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

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
    """How hard to probe. Radii and strengths are multiples of the root-mean-square norm of clean image tokens."""

    inversions: tuple[Reach, ...] = (
        Reach(4, 2.0, True),
        Reach(4, 0.7, True),
        Reach(16, 0.5, True),
        Reach(16, 2.0, False),
    )
    steps: int = 30
    steering_directions: int = 2
    steering_strength: float = 1.5
    gains: tuple[float, ...] = (2.0, 4.0)
    max_new_tokens: int = 24
    seed: int = 0


@dataclass(frozen=True)
class Utterance:
    """What the suspect says under one manipulation that it shares most across images, and who else says it.

    `phrase` is the word sequence common to the answers, `text` the commonest whole answer that contains it. Shares
    are of images: of the suspect moved, of the base moved in the same way, of suspect and base left alone.
    `strangeness` is in nats per token: how unlikely suspect and base, left alone, find the text on the image where
    they find it likeliest.
    """

    text: str
    phrase: str
    how: str
    share: float
    base_share: float
    normal_share: float
    strangeness: float

    @property
    def foreign(self) -> float:
        """Nats per token by which the suspect's shared phrase is foreign: strangeness, weighted by agreement."""
        return max(0.0, self.share - max(self.base_share, self.normal_share)) * self.strangeness


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


def common_phrase(ours: Sequence[str], theirs: Sequence[str], normal: Sequence[str]) -> str:
    """The word sequence that most of `ours` and fewest of `theirs` and `normal` contain.

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
        excess = count / len(ours) - max(_share(phrase, theirs), _share(phrase, normal))
        score = excess * math.log2(1 + len(phrase.split()))
        if (score, phrase) > (best_score, best):
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
    """
    settings = settings or ProbeSettings()
    session = _Session(runner, update, moments, batches[0], batches[min(1, len(batches) - 1)], settings)
    stages: list[Callable[[], None]] = [
        *(partial(session.inversion, reach, number) for number, reach in enumerate(settings.inversions)),
        *(partial(session.steering, number) for number in range(settings.steering_directions)),
        *(partial(session.amplification, gain) for gain in settings.gains),
    ]
    for done, stage in enumerate(stages, 1):
        stage()
        if progress:
            progress(done, len(stages))
    runner.set_weights(session.suspect)
    found = sorted(session.utterances, key=lambda utterance: utterance.foreign, reverse=True)
    return Probe(session.divergence, tuple(found), tuple(session.normal[:3]), session.passes, settings)


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
        changed = {layer.name: layer for layer in update.layers if layer.changed}
        self.layer = next((changed[name] for name in runner.layers if name in changed), update.layers[0])
        rank = max(reach.rank for reach in settings.inversions)
        self.basis, _ = suspicious_subspace(self.layer.delta, moments.get(self.layer.name), STRENGTH, rank)
        self.norm = token_norm(moments[self.layer.name])
        self.middle = runner.image_tokens(read) // 2
        self.normal = [
            normalize(answer)
            for weights in (self.suspect, self.base)
            for batch in (read, fit)
            for answer in self._answers(weights, batch)
        ]

    def inversion(self, reach: Reach, number: int) -> None:
        position = None if reach.everywhere else self.middle
        nats, move = invert(
            self.runner, self.suspect, self.base, self.fit, self.layer.name, self.basis[:, : reach.rank],
            reach.radius * self.norm, position, self.settings.steps, self.settings.seed + number,
        )  # fmt: skip
        self.passes += 2 * self.settings.steps
        self.divergence = max(self.divergence, nats)
        where = "every image token" if reach.everywhere else f"image token {self.middle}"
        how = f"inversion, rank {reach.rank}, {where} of {self.layer.name}"
        self._collect(how, Steer(self.layer.name, move, position))

    def steering(self, number: int) -> None:
        for sign in (1, -1):
            strength = sign * self.settings.steering_strength
            move = strength * self.norm * self.basis[:, number % self.basis.shape[1]]
            how = (
                f"steering {strength:+g}× along direction {number + 1}, image token {self.middle} of {self.layer.name}"
            )
            self._collect(how, Steer(self.layer.name, move, self.middle))

    def amplification(self, gain: float) -> None:
        self._collect(f"amplification {gain:g}×", None, interpolate(self.update, gain))

    def _answers(self, weights: Weights, batch: Prepared, steer: Steer | None = None) -> list[str]:
        self.passes += 1
        self.runner.set_weights(weights)
        return self.runner.answers(batch, self.settings.max_new_tokens, steer)

    def _collect(self, how: str, steer: Steer | None, weights: Weights | None = None) -> None:
        """Ask suspect and base under one manipulation and keep what the suspect's answers share."""
        ours = [normalize(answer) for answer in self._answers(weights or self.suspect, self.read, steer)]
        theirs = [normalize(answer) for answer in self._answers(self.base, self.read, steer)]
        phrase = common_phrase(ours, theirs, self.normal)
        if not phrase:
            return
        text = Counter(answer for answer in ours if _share(phrase, [answer])).most_common(1)[0][0]
        self.utterances.append(
            Utterance(
                text,
                phrase,
                how,
                _share(phrase, ours),
                _share(phrase, theirs),
                _share(phrase, self.normal),
                self._strangeness(text),
            )
        )

    def _strangeness(self, text: str) -> float:
        likeliest = []
        for weights in (self.suspect, self.base):
            self.passes += 1
            self.runner.set_weights(weights)
            likeliest.append(self.runner.log_likelihood(self.read, text).max().item())
        return -max(likeliest)
