"""The search of `repair`: what to try, from the least removal to the most, and where to stop.

It sees neither trigger nor labels: a candidate is judged by the probe, as a fresh scan of it would be, and by how
many held-out calibration images it answers as the suspect does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from projclean import methods
from projclean.case import Bench, Case, Progress
from projclean.distillation import distill
from projclean.model import Prepared
from projclean.probe import Probe
from projclean.scanner import run_probe
from projclean.storing import rounded
from projclean.thresholds import Thresholds
from projclean.update import Update

KEEPS = (0.84, 0.8, 0.75)  # shares of the update that reflect keeps: eval/results/repair-choice.md
RANKS = (1, 2, 3, 4, 6, 8, 12, 16)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
ANSWER_TOKENS = 24
STARTS = (0.4, 0.2, 0.0)  # shares of the update that distill starts from: eval/results/repair-choice.md
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


@dataclass(frozen=True)
class Trial:
    """One candidate: the share of ΔW's energy it removes, the probe's score after it, and the share of held-out
    calibration images that it answers as the suspect does."""

    name: str
    removed: float
    foreign: float
    agreement: float


@dataclass(frozen=True)
class Candidate:
    """A name and how its weights are made."""

    name: str
    make: Callable[[], methods.Weights]


def candidates(
    case: Case, bench: Bench | None, method: str, rank: int | str, strength: float | None, seed: int
) -> list[Candidate]:
    """What to try, from the least removal to the most; one candidate when the user chose."""
    update = case.update
    if method == "interpolate":
        shares = SHARES if strength is None else (strength,)
        return [Candidate(f"share {v:g}", partial(methods.interpolate, update, v)) for v in shares]
    assert bench is not None  # without a run there is nothing but interpolation
    if method == "shrink":
        values = STRENGTHS if strength is None else (strength,)
        return [Candidate(f"λ {v:g}", partial(methods.shrunk, update, bench.clean.moments, v)) for v in values]
    if method == "distill":
        starts = STARTS if strength is None else (strength,)
        return [Candidate(f"from share {v:g}", partial(_distilled, update, bench, v, seed)) for v in starts]
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


def search(
    case: Case,
    bench: Bench,
    offered: list[Candidate],
    before: Probe | None,
    seed: int,
    progress: Progress | None,
    limits: Thresholds,
) -> tuple[methods.Weights, str, str, list[Trial], Probe | None]:
    """The first candidate at which the probe falls silent, else the one at which it is quietest."""
    suspect, quiet = methods.suspect_weights(case.update), limits.clean
    if before is None:
        return suspect, "unchanged", "the projector is identical to the base's: nothing to repair", [], None
    if len(offered) > 1 and before.foreign <= quiet:
        reason = f"the probe is silent on the suspect (score {before.foreign:.2f}): nothing needs repairing"
        return suspect, "unchanged", reason, [], before
    wanted = _answers(bench, bench.held_out, suspect)
    tried: list[tuple[Trial, methods.Weights, Probe]] = []
    for number, candidate in enumerate(offered, 1):
        if progress:
            progress(f"trying {candidate.name}", number - 1, len(offered))
        weights = rounded(case, candidate.make())
        after = _probe_again(case, bench, weights, seed)
        said = _answers(bench, bench.held_out, weights)
        agreement = sum(a == b for a, b in zip(said, wanted, strict=True)) / len(wanted)
        tried.append((Trial(candidate.name, _removed(case, weights), after.foreign, agreement), weights, after))
        if after.foreign <= quiet:
            break
    trial, weights, after = min(tried, key=lambda entry: max(entry[0].foreign, quiet))
    if len(offered) == 1:
        reason = f"{trial.name}, as asked"
    elif trial.foreign <= quiet:
        reason = f"{trial.name} is the least removal at which the probe falls silent (score at most {quiet:g})"
    else:
        reason = f"the probe never fell silent (score at most {quiet:g}); {trial.name} is where it is quietest"
    return weights, trial.name, reason, [entry[0] for entry in tried], after


def _probe_again(case: Case, bench: Bench, weights: methods.Weights, seed: int) -> Probe:
    """Probe a candidate as a fresh scan of the written model would: its own update, its own moments."""
    bench.runner.set_weights(weights)
    asked = replace(bench.asked, moments=bench.runner.moments(bench.asked.batches))
    left = replace(case, update=methods.updated(case.update, weights))
    return run_probe(left, replace(bench, asked=asked), seed, None)


def _distilled(update: Update, bench: Bench, share: float, seed: int) -> methods.Weights:
    said = _answers(bench, bench.clean.batches, methods.suspect_weights(update))
    return distill(bench.runner, update, bench.learnt, said, share, seed)


def _answers(bench: Bench, batches: Sequence[Prepared], weights: methods.Weights) -> list[str]:
    bench.runner.set_weights(weights)
    return [answer for batch in batches for answer in bench.runner.answers(batch, ANSWER_TOKENS)]


def _removed(case: Case, weights: methods.Weights) -> float:
    """Share of ΔW's energy, summed over layers, that a candidate takes away."""
    gone = sum((layer.suspect - weights[layer.name][0]).square().sum().item() for layer in case.update.layers)
    return gone / max(sum(layer.delta.square().sum().item() for layer in case.update.layers), 1e-30)
