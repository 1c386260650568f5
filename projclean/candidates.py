"""What `repair` tries: a method's candidates, from the least removal to the most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product

import torch

from projclean import __version__, methods
from projclean.case import Bench, Case
from projclean.distillation import Effort, distill
from projclean.doubt import judged
from projclean.errors import ModelError
from projclean.guard import Guard
from projclean.lessons import IMAGES, Lesson, lesson
from projclean.update import Update

KEEPS = (0.75, 0.65)  # shares of the update that reflect keeps: eval/results/repair-choice.md
RANKS = (1, 2, 3, 4, 6, 8, 12, 16)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
ANSWER_TOKENS = 24
STARTS = (0.3, 0.15, 0.0)  # shares of the update that distill starts from
PERCENTILES = (99.0, 90.0, 75.0, 50.0)  # of clean token norms, at which clip cuts
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


@dataclass(frozen=True)
class Learning:
    """How `distill` is to learn: from how many `images`, blends among them, and whether `judged` (a judge has a say in
    what is learnt, `doubt`)."""

    images: int = IMAGES
    judged: bool = False

    @property
    def remark(self) -> str:
        """What is unusual about it, to stand behind a candidate's name."""
        return ("" if self.images == IMAGES else f", {self.images} images") + (", judged" if self.judged else "")


@dataclass(frozen=True)
class Candidate:
    """A name, how its weights are made, and the guard it runs behind; None for the suspect's own, if it has one.

    `remark` is what there is to say about how they were made, to be asked afterwards.
    """

    name: str
    make: Callable[[], methods.Weights]
    guard: Guard | None = None
    remark: Callable[[], str] = str


def candidates(
    case: Case,
    bench: Bench | None,
    method: str,
    rank: int | str,
    strength: float | None,
    seed: int,
    clip: float | None = None,
    heard: Sequence[str] = (),
    learning: Learning = Learning(),
) -> list[Candidate]:
    """What to try, from the least removal to the most; one candidate when the user chose.

    `heard` are phrases that the probe made the suspect say: an image on which it says them by itself teaches nothing.
    `learning` is how `distill` learns from the others. `clip` is a percentile of clean token norms at which a guard
    cuts, beside whatever the method does; the method `clip` is no change of the weights behind guards of several
    percentiles.
    """
    percentiles: tuple[float, ...] = () if clip is None else (clip,)
    if method == "clip":
        percentiles = PERCENTILES if strength is None else (strength,)
        plain = [Candidate("", partial(methods.suspect_weights, case.update))]
    elif method == "distill":
        plain = _by_learning(case, bench, strength, seed, heard, learning)
    else:
        plain = _by_weights(case, bench, method, rank, strength)
    if not percentiles:
        return plain
    assert bench is not None  # without a run there are no norms
    guards = _guards(case, bench, percentiles, seed)
    return [
        replace(candidate, name=", ".join(filter(None, (candidate.name, f"clip p{guard.percentile:g}"))), guard=guard)
        for candidate, guard in product(plain, guards)
    ]


def _by_weights(
    case: Case, bench: Bench | None, method: str, rank: int | str, strength: float | None
) -> list[Candidate]:
    """The candidates of a method that computes weights."""
    update = case.update
    if method == "interpolate":
        shares = SHARES if strength is None else (strength,)
        return [Candidate(f"share {v:g}", partial(methods.interpolate, update, v)) for v in shares]
    assert bench is not None  # without a run there is nothing but interpolation
    if method == "shrink":
        values = STRENGTHS if strength is None else (strength,)
        return [Candidate(f"λ {v:g}", partial(methods.shrunk, update, bench.clean.moments, v)) for v in values]
    most = methods.smallest_side(update)
    ranks = [int(rank)] if rank != "auto" else [k for k in RANKS if k <= most]
    found = methods.suspicious_directions(update, bench.clean.moments, max(ranks))
    top = {k: {name: directions[:, :k] for name, directions in found.items()} for k in ranks}
    if method == "project":
        return [Candidate(f"rank {k}", partial(methods.project, update, top[k])) for k in ranks]
    keeps = KEEPS[:1] if rank != "auto" else KEEPS
    if strength is not None:
        keeps = (strength,)
    return [
        Candidate(f"rank {k}, keep {keep:g}", partial(methods.reflect, update, top[k], keep))
        for k, keep in product(ranks, keeps)
    ]


def _by_learning(
    case: Case,
    bench: Bench | None,
    strength: float | None,
    seed: int,
    heard: Sequence[str],
    learning: Learning,
) -> list[Candidate]:
    """The candidates of the method that learns them."""
    assert bench is not None  # without a run there is nothing to learn from
    # The suspect is asked once, whatever is tried.
    taught = cache(partial(_lesson, case, bench, heard, seed, learning))
    return [
        Candidate(
            f"from share {share:g}{learning.remark}",
            partial(_distilled, case.update, bench, taught, share, seed),
            remark=partial(_left_out, taught),
        )
        for share in (STARTS if strength is None else (strength,))
    ]


def _guards(case: Case, bench: Bench, percentiles: Sequence[float], seed: int) -> list[Guard]:
    """Guards of the first projector layer, at percentiles of the norms of the calibration images' tokens there.

    What the suspect's own guard limits stays limited. Raises ModelError when no token was seen.
    """
    runner = bench.runner
    layer, kept = runner.layers[0], runner.guard.limits if runner.guard else {}
    norms = runner.input_norms(bench.clean.batches).clamp_max(kept.get(layer, math.inf))
    limits = [torch.quantile(norms, percentile / 100).item() for percentile in percentiles]
    if not min(limits) > 0:
        raise ModelError(f"{case.model.path}: clean image tokens of norm 0 reach the projector, clip cannot be used")
    provenance: dict[str, str | int] = {
        "projclean": __version__, "suspect": case.suspect.path.name, "base": case.base.path.name,
        "images": bench.images, "seed": seed,
    }  # fmt: skip
    return [
        Guard({**kept, layer: limit}, percentile, provenance)
        for limit, percentile in zip(limits, percentiles, strict=True)
    ]


def _lesson(
    case: Case, bench: Bench, heard: Sequence[str], seed: int, learning: Learning
) -> tuple[Lesson, methods.Weights | None]:
    """What there is to learn from the calibration images, and who judges it, if anyone. Raises ModelError when there is
    nothing."""
    taught = lesson(bench.runner, case.update, bench.learnt, heard, ANSWER_TOKENS, seed, learning.images)
    if not taught.replies:
        raise ModelError(
            f"{case.model.path}: of {taught.looked_at} calibration images and blends none is left to learn from: on "
            f"{taught.left_out} the suspect says what the probe made it say; give other --images, or --method reflect"
        )
    return judged(bench.runner, case.update, taught, seed) if learning.judged else (taught, None)


Taught = Callable[[], tuple[Lesson, methods.Weights | None]]


def _left_out(taught: Taught) -> str:
    """How many images were not learnt from, if any."""
    known, _ = taught()
    lost, of = known.left_out, known.looked_at
    return f"not learnt from {lost} of {of} images and blends, whose answers hold what the probe heard" if lost else ""


def _distilled(update: Update, bench: Bench, taught: Taught, share: float, seed: int) -> methods.Weights:
    known, judge = taught()
    effort = Effort.on(known.looked_at)
    return distill(bench.runner, update, known.images, known.replies, share, seed, effort=effort, judge=judge)
