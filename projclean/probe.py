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

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from projclean.methods import STRENGTH, base_weights, interpolate, suspect_weights
from projclean.metrics import normalize
from projclean.model import Prepared, Runner, Steer, Weights
from projclean.subspace import Moments, suspicious_subspace, token_norm
from projclean.update import Update

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ProbeSettings:
    """How hard to probe. Strengths are multiples of the root-mean-square norm of clean image tokens."""

    images: int = 16
    rank: int = 16
    steps: int = 40
    radius: float = 2.0
    positions: tuple[float, ...] = (0.5, 0.0)
    steering_directions: int = 3
    steering_strengths: tuple[float, ...] = (1.0, 2.0)
    gains: tuple[float, ...] = (2.0, 3.0, 5.0)
    max_new_tokens: int = 24
    seed: int = 0


@dataclass(frozen=True)
class Utterance:
    """The commonest answer under one manipulation, and who says it.

    Shares are over the calibration images: of the suspect moved, of the base moved in the same way, of the suspect
    and the base left alone. `strangeness` is in nats per token: how unlikely suspect and base, left alone, find the
    text on the image where they find it likeliest.
    """

    text: str
    how: str
    share: float
    base_share: float
    normal_share: float
    strangeness: float

    @property
    def foreign(self) -> float:
        """Nats per token by which the suspect's agreed answer is foreign: strangeness, weighted by agreement."""
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
    position: int,
    steps: int,
    seed: int,
) -> tuple[float, torch.Tensor]:
    """Fit a move of one image token inside span(basis) that parts suspect and base.

    Maximises mean KL(suspect ‖ base) of the first answer token minus the entropy of the suspect's mean
    distribution, over coordinates z (k,) with ‖z‖ ≤ radius, by Adam. basis is (in, k), orthonormal. Returns the
    best objective in nats and the move (in,).
    """
    generator = torch.Generator().manual_seed(seed)
    z = (0.1 * radius * torch.randn(basis.shape[1], generator=generator)).requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=0.08 * radius)
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
    stages = [
        *((session.inversion, position) for position in settings.positions),
        *((session.steering, strength) for strength in settings.steering_strengths),
        *((session.amplification, gain) for gain in settings.gains),
    ]
    for done, (stage, argument) in enumerate(stages, 1):
        stage(argument)
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
        self.runner, self.update, self.moments = runner, update, moments
        self.fit, self.read, self.settings = fit, read, settings
        self.suspect, self.base = suspect_weights(update), base_weights(update)
        self.divergence, self.passes = 0.0, 0
        self.utterances: list[Utterance] = []
        changed = {layer.name: layer for layer in update.layers if layer.changed}
        self.layer = next((changed[name] for name in runner.layers if name in changed), update.layers[0])
        self.basis, _ = suspicious_subspace(
            self.layer.delta, moments.get(self.layer.name), STRENGTH, min(settings.rank, min(self.layer.base.shape))
        )
        self.norm = token_norm(moments[self.layer.name])
        self.tokens = runner.image_tokens(read)
        self.normal = self._answers(self.suspect) + self._answers(self.base)

    def inversion(self, place: float) -> None:
        position = int(place * self.tokens)
        nats, move = invert(
            self.runner, self.suspect, self.base, self.fit, self.layer.name, self.basis,
            self.settings.radius * self.norm, position, self.settings.steps, self.settings.seed,
        )  # fmt: skip
        self.passes += 2 * self.settings.steps
        self.divergence = max(self.divergence, nats)
        how = f"inversion in {self.layer.name}, image token {position}"
        self._collect(how, Steer(self.layer.name, move, position))

    def steering(self, strength: float) -> None:
        position = self.tokens // 2
        for number in range(min(self.settings.steering_directions, self.basis.shape[1])):
            for sign in (1, -1):
                move = sign * strength * self.norm * self.basis[:, number]
                how = f"steering {sign * strength:+g}× along direction {number + 1} of {self.layer.name}"
                self._collect(how, Steer(self.layer.name, move, position))

    def amplification(self, gain: float) -> None:
        self._collect(f"amplification {gain:g}×", None, interpolate(self.update, gain))

    def _answers(self, weights: Weights, steer: Steer | None = None) -> list[str]:
        self.passes += 1
        self.runner.set_weights(weights)
        return self.runner.answers(self.read, self.settings.max_new_tokens, steer)

    def _collect(self, how: str, steer: Steer | None, weights: Weights | None = None) -> None:
        """Ask suspect and base under one manipulation and keep the suspect's commonest answer."""
        ours = [normalize(answer) for answer in self._answers(weights or self.suspect, steer)]
        theirs = [normalize(answer) for answer in self._answers(self.base, steer)]
        normal = [normalize(answer) for answer in self.normal]
        text, count = Counter(ours).most_common(1)[0]
        self.utterances.append(
            Utterance(
                text,
                how,
                count / len(ours),
                theirs.count(text) / len(theirs),
                normal.count(text) / len(normal),
                self._strangeness(text),
            )
        )

    def _strangeness(self, text: str) -> float:
        if not text:
            return 0.0
        likeliest = []
        for weights in (self.suspect, self.base):
            self.passes += 1
            self.runner.set_weights(weights)
            likeliest.append(self.runner.log_likelihood(self.read, text).max().item())
        return -max(likeliest)
