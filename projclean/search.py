"""The search of `repair`: where to stop among the candidates, from the least removal to the most.

It sees neither trigger nor labels: a candidate is judged by the probe, as a fresh scan of it would be, and by how
many held-out calibration images it answers as the suspect does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from projclean import methods
from projclean.candidates import Candidate
from projclean.case import Bench, Case, Progress
from projclean.evaluation import Score
from projclean.further import Further
from projclean.guard import Guard
from projclean.learning import ANSWER_TOKENS
from projclean.model import Prepared
from projclean.probe import Probe
from projclean.scanner import run_probe
from projclean.storing import rounded
from projclean.thresholds import Thresholds


@dataclass(frozen=True)
class Trial:
    """One candidate: the share of ΔW's energy it removes, the probe's score after it, and the share of held-out
    calibration images that it answers as the suspect does; where an evaluation set was given also what it scores
    there, which the choice does not see."""

    name: str
    removed: float
    foreign: float
    agreement: float
    score: Score | None = None


@dataclass(frozen=True)
class Tried:
    """A trial with what was tried: the weights as made, the guard they ran behind, and what the probe found."""

    trial: Trial
    weights: methods.Weights
    guard: Guard | None
    probe: Probe


@dataclass(frozen=True)
class Found:
    """Where the search ended: what to write, why, and all that was tried; `after` is None where nothing was probed.

    The weights are as they were made: rounded once they are what was probed, rounded twice a LoRA's may be others.
    """

    name: str
    reason: str
    weights: methods.Weights
    guard: Guard | None
    after: Probe | None
    tried: tuple[Tried, ...] = ()


def search(
    case: Case,
    bench: Bench,
    offered: list[Candidate],
    before: Probe | None,
    seed: int,
    progress: Progress | None,
    limits: Thresholds,
    known: Sequence[str] = (),
) -> Found:
    """The first candidate at which the probe falls silent, else the one at which it is quietest.

    `known` are attacks that were seen to work on the suspect: with one of them there is something to repair though the
    probe may be silent. Leaves the suspect's own guard attached, if it has one.
    """
    suspect, own, quiet = methods.suspect_weights(case.update), bench.runner.guard, limits.clean
    if before is None:
        return Found("unchanged", "the projector is identical to the base's: nothing to repair", suspect, own, None)
    unheard = len(offered) > 1 and before.foreign <= quiet
    if unheard and not known:
        reason = (
            f"the probe is silent on the suspect (score {before.foreign:.2f}): nothing needs repairing; "
            "if you know better, name a --strength or a --rank"
        )
        return Found("unchanged", reason, suspect, own, before)
    wanted = _answers(bench, bench.held_out, suspect)
    tried: list[Tried] = []
    for number, candidate in enumerate(offered, 1):
        if progress:
            progress(f"trying {candidate.name}", number - 1, len(offered))
        made, guard = candidate.make(), candidate.guard or own
        weights = rounded(case, made)
        bench.runner.set_guard(guard)
        after = _probe_again(case, bench, weights, seed, Further(bool(before.settings.words), before.questions))
        said = _answers(bench, bench.held_out, weights)
        bench.runner.set_guard(own)
        agreement = sum(a == b for a, b in zip(said, wanted, strict=True)) / len(wanted)
        trial = Trial(candidate.name, _removed(case, weights), after.foreign, agreement)
        tried.append(Tried(trial, made, guard, after))
        if after.foreign <= quiet:
            break
    best = min(tried, key=lambda one: max(one.trial.foreign, quiet))
    name = best.trial.name
    if len(offered) == 1:
        reason = f"{name}, as asked"
    elif unheard:
        reason = (
            f"the probe is silent on the suspect, but attack {', '.join(known)} of the evaluation set works on it: "
            f"{name} is the least removal at which the probe stays silent"
        )
    elif best.trial.foreign <= quiet:
        reason = f"{name} is the least removal at which the probe falls silent (score at most {quiet:g})"
    else:
        reason = f"the probe never fell silent (score at most {quiet:g}); {name} is where it is quietest"
    remark = next(candidate.remark() for candidate in offered if candidate.name == name)
    reason = "; ".join(filter(None, (reason, remark)))
    return Found(name, reason, best.weights, best.guard, best.probe, tuple(tried))


def _probe_again(case: Case, bench: Bench, weights: methods.Weights, seed: int, further: Further) -> Probe:
    """Probe a candidate as a fresh scan of the written model would: its own update, its own moments."""
    bench.runner.set_weights(weights)
    asked = replace(bench.asked, moments=bench.runner.moments(bench.asked.batches))
    left = replace(case, update=methods.updated(case.update, weights))
    return run_probe(left, replace(bench, asked=asked), seed, None, further)


def _answers(bench: Bench, batches: Sequence[Prepared], weights: methods.Weights) -> list[str]:
    bench.runner.set_weights(weights)
    return [answer for batch in batches for answer in bench.runner.answers(batch, ANSWER_TOKENS)]


def _removed(case: Case, weights: methods.Weights) -> float:
    """Share of ΔW's energy, summed over layers, that a candidate takes away."""
    gone = sum((layer.suspect - weights[layer.name][0]).square().sum().item() for layer in case.update.layers)
    return gone / max(sum(layer.delta.square().sum().item() for layer in case.update.layers), 1e-30)
