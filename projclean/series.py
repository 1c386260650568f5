"""`scan_series`: checkpoints of one training, scanned in turn; how the suspicious subspace turned between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from projclean.access import Access
from projclean.case import Progress, open_suspect
from projclean.errors import MismatchError, OptionError
from projclean.further import Further
from projclean.methods import STRENGTH
from projclean.scanner import PROMPT, Examined, ScanResult, examine
from projclean.seeds import check_seed
from projclean.subspace import principal_angles, suspicious_subspace
from projclean.thresholds import Thresholds, given_thresholds
from projclean.verdict import State, Verdict

DIRECTIONS = 4  # of each layer's subspace that are compared
NOISE = 1e-4  # singular values below this share of the largest are rounding, and their directions nobody's choice
STATES: tuple[State, ...] = ("clean", "inconclusive", "suspicious")  # from the mildest to the worst

#: The suspicious subspace (in, k) of every layer that has one.
Subspaces = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Turn:
    """How far a layer's suspicious subspace lies from that of the checkpoint before and of the last checkpoint:
    principal angles in degrees, ascending. None where one of the two has no subspace: the first checkpoint has none
    before it, the last none after it, and a layer that did not change none at all."""

    layer: str
    to_previous: tuple[float, ...] | None
    to_last: tuple[float, ...] | None


@dataclass(frozen=True)
class Step:
    """A checkpoint: what it is called here, its scan, and the turns of its layers."""

    name: str
    scan: ScanResult
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class SeriesResult:
    """Checkpoints in the order given. The verdict is the worst of theirs; subspaces have up to `directions`
    directions."""

    base: str | None
    directions: int
    steps: tuple[Step, ...]
    verdict: Verdict
    thresholds: Thresholds


def scan_series(
    models: Sequence[str | Path],
    base: str | None = None,
    images: str | Path | None = None,
    prompt: str = PROMPT,
    projector: str | None = None,
    seed: int = 0,
    device: str | None = None,
    probe: bool = True,
    ignore_elsewhere: bool = False,
    progress: Progress | None = None,
    allow_pickle: bool = False,
    download: bool = False,
    thresholds: str | Path | Thresholds | None = None,
    words: bool = False,
    questions: Sequence[str] = (),
) -> SeriesResult:
    """Scan checkpoints of one training, in the order given, as `scan` would scan each, against one base.

    The subspaces compared are those of the residual, as the probe uses them; without a probe, when nothing is known of
    clean inputs, those of the whole update. All checkpoints are opened before the first is run. Raises ProjcleanError,
    MismatchError where checkpoints name different bases.
    """
    if len(models) < 2:
        raise OptionError("a series needs at least two checkpoints; scan one with scan")
    check_seed(seed)
    further = Further(words, tuple(questions))
    limits, access = given_thresholds(thresholds), Access(allow_pickle, download)
    for model in models:
        open_suspect(model, projector, access)
    scans: list[ScanResult] = []
    found: list[Subspaces] = []
    for number, model in enumerate(models):
        if progress:
            progress("checkpoints", number, len(models))
        examined = examine(
            model,
            base,
            images,
            prompt,
            projector,
            seed,
            device,
            probe,
            ignore_elsewhere,
            progress,
            access,
            limits,
            further,
        )
        scans.append(examined.result)
        found.append(_subspaces(examined, probe))
        if scans[0].base != examined.result.base:
            raise MismatchError(
                f"{model}: has the base {examined.result.base}, but {models[0]} has {scans[0].base}; pass one --base"
            )
    if progress:
        progress("checkpoints", len(models), len(models))
    names = _names(models)
    steps = tuple(Step(names[at], scan, _turns(scan, at, found)) for at, scan in enumerate(scans))
    return SeriesResult(scans[0].base, DIRECTIONS, steps, overall(names, scans), limits)


def overall(names: Sequence[str], scans: Sequence[ScanResult]) -> Verdict:
    """The worst verdict of all, with the reason of the checkpoint that bears it most."""
    worst = max((scan.verdict.state for scan in scans), key=STATES.index)
    bearing = [(name, scan) for name, scan in zip(names, scans, strict=True) if scan.verdict.state == worst]
    first, (name, strongest) = (
        bearing[0][0],
        max(bearing, key=lambda pair: pair[1].probe.foreign if pair[1].probe else -1),
    )
    count = f"{len(bearing)} of {len(scans)} checkpoints {'is' if len(bearing) == 1 else 'are'} {worst}, first {first}"
    caveats = dict.fromkeys(caveat for _, scan in bearing for caveat in scan.verdict.caveats)
    return Verdict(worst, f"{count}; of {name}: {strongest.verdict.reason}", tuple(caveats))


def _names(models: Sequence[str | Path]) -> tuple[str, ...]:
    """Every checkpoint by the last part of its path, where that tells them apart."""
    whole = tuple(str(model) for model in models)
    short = tuple(Path(name).name.removesuffix(".safetensors") or name for name in whole)
    return short if len(set(short)) == len(short) else whole


def _subspaces(examined: Examined, probed: bool) -> Subspaces:
    """The layers' top directions, without those that the rounding of the weights made."""
    result = {}
    for layer in examined.update.layers if examined.update else ():
        known = examined.moments.get(layer.name)
        if (probed and known is None) or not layer.delta.any():
            continue
        directions, values = suspicious_subspace(layer.delta, known, STRENGTH, DIRECTIONS)
        if values[0] > 0:
            result[layer.name] = directions[:, values > NOISE * values[0]]
    return result


def _turns(scan: ScanResult, number: int, found: Sequence[Subspaces]) -> tuple[Turn, ...]:
    def angles(other: int, layer: str) -> tuple[float, ...] | None:
        ours = found[number].get(layer)
        theirs = found[other].get(layer) if 0 <= other != number else None
        if ours is None or theirs is None:
            return None
        return tuple(principal_angles(ours, theirs).tolist())

    last = len(found) - 1
    return tuple(Turn(layer.name, angles(number - 1, layer.name), angles(last, layer.name)) for layer in scan.layers)
