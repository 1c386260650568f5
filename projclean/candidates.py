"""What `repair` tries: a method's candidates, from the least removal to the most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch

from projclean import __version__, methods
from projclean.case import Bench, Case
from projclean.errors import ModelError
from projclean.guard import Guard
from projclean.learning import Learner, Learning
from projclean.update import Update

KEEPS = (0.75, 0.65)  # shares of the update that reflect keeps: eval/results/repair-choice.md
RANKS = (1, 2, 3, 4, 6, 8, 12, 16)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
STARTS = (0.3, 0.15, 0.0)  # shares of the update that distill starts from
PERCENTILES = (99.0, 90.0, 75.0, 50.0)  # of clean token norms, at which clip cuts
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


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
    learning: Learning | None = None,
    word: str = "",
) -> list[Candidate]:
    """What to try, from the least removal to the most; one candidate when the user chose.

    `heard` are phrases that the probe made the suspect say and `word` one that it had it put into answers (`Learner`).
    `learning` is how `distill` learns from the others (None: as usual), and `reflect` what it costs (None: it does
    not). `clip` is a percentile of clean token norms at which a guard cuts, beside whatever the method does; the method
    `clip` is no change of the weights behind guards of several percentiles.
    """
    percentiles: tuple[float, ...] = () if clip is None else (clip,)
    if method == "clip":
        percentiles = PERCENTILES if strength is None else (strength,)
        plain = [Candidate("", partial(methods.suspect_weights, case.update))]
    elif method == "distill":
        assert bench is not None  # without a run there is nothing to learn from
        plain = _by_learning(Learner(case, bench, heard, seed, learning or Learning(), word), strength)
    elif method == "reflect":
        assert bench is not None  # nor are there directions
        learner = Learner(case, bench, heard, seed, learning, word) if learning else None
        plain = _by_turning(case.update, bench, rank, strength, learner)
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
    assert method == "project"
    return [Candidate(f"rank {k}", partial(methods.project, update, top)) for k, top in _tops(update, bench, rank)]


def _by_learning(learner: Learner, strength: float | None) -> list[Candidate]:
    """The candidates of the method that learns them."""
    return [
        Candidate(
            f"from share {share:g}{learner.learning.remark}", partial(learner.distilled, share), remark=learner.remark
        )
        for share in (STARTS if strength is None else (strength,))
    ]


def _by_turning(
    update: Update, bench: Bench, rank: int | str, strength: float | None, learner: Learner | None
) -> list[Candidate]:
    """The candidates of `reflect`; with somebody to learn, what turning costs is learnt again."""
    keeps = (strength,) if strength is not None else KEEPS if rank == "auto" else KEEPS[:1]
    offered = []
    for (k, top), keep in product(_tops(update, bench, rank), keeps):
        name, turned = f"rank {k}, keep {keep:g}", partial(methods.reflect, update, top, keep)
        if learner is None:
            offered.append(Candidate(name, turned))
            continue
        again = partial(_learnt_again, learner, turned, top)
        offered.append(Candidate(f"{name}, learnt again{learner.learning.remark}", again, remark=learner.remark))
    return offered


def _learnt_again(learner: Learner, turned: Callable[[], methods.Weights], held: methods.Directions) -> methods.Weights:
    return learner.recovered(turned(), held)


def _tops(update: Update, bench: Bench, rank: int | str) -> list[tuple[int, methods.Directions]]:
    """Ranks, each with as many of the top suspicious directions of every layer."""
    most = methods.smallest_side(update)
    ranks = [int(rank)] if rank != "auto" else [k for k in RANKS if k <= most]
    found = methods.suspicious_directions(update, bench.clean.moments, max(ranks))
    return [(k, {name: directions[:, :k] for name, directions in found.items()}) for k in ranks]


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
