"""`scan`: from a suspect and its base to a verdict with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from projclean import probe as probing
from projclean.access import Access
from projclean.adapter import Adapter
from projclean.case import Bench, Case, Progress, guess_caveats, open_case, open_suspect, set_up
from projclean.climb import NotDifferentiable
from projclean.elsewhere import changes_elsewhere
from projclean.errors import BaseNotFound, ModelError
from projclean.further import NOTHING_FURTHER, Further
from projclean.guard import UNATTACHED, Guard
from projclean.methods import STRENGTH
from projclean.precision import quick
from projclean.probe_settings import ProbeSettings
from projclean.projectors import find_projector
from projclean.running import running
from projclean.seeds import check_seed
from projclean.subspace import Moments, residual, stable_rank
from projclean.thresholds import Thresholds, given_thresholds, shipped
from projclean.update import Update
from projclean.verdict import Verdict, judge

PROMPT = "Describe the image."


@dataclass(frozen=True)
class LayerFinding:
    """One layer's update: ‖ΔW‖/‖W‖, stable rank, and the share of its energy that clean inputs do not need."""

    name: str
    shape: tuple[int, int]
    relative_change: float
    stable_rank: float
    off_clean_share: float | None


@dataclass(frozen=True)
class ScanResult:
    """A scan, as the reports show it. Holds no timings: the same command gives the same result. `guard` is what the
    model ran behind, if anything."""

    model: str
    base: str | None
    base_named_by: str | None
    family: str
    layers: tuple[LayerFinding, ...]
    elsewhere: tuple[str, ...]
    elsewhere_contents: bool
    probe: probing.Probe | None
    verdict: Verdict
    images: str | None
    prompt: str
    seed: int
    sha256: Mapping[str, str]
    guard: Guard | None = None
    thresholds: Thresholds = field(default_factory=shipped)


@dataclass(frozen=True)
class Examined:
    """A scan and what it was made from: the update, None without a base, and the moments of the layers' inputs on
    calibration images, empty where the model was not run."""

    result: ScanResult
    update: Update | None
    moments: Mapping[str, Moments]


def scan(
    model: str | Path,
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
) -> ScanResult:
    """Look for a backdoor in the projector of `model`: a model directory, a PEFT adapter or a bare projector file,
    which are laid over `base`, or a hub id `org/name[@revision]`.

    images: a folder of clean calibration images (built-in ones when None). projector: a regular expression for the
    projector's matrices where they are not found. Without a base, or where the model cannot be run here, the verdict
    is inconclusive. allow_pickle: read bare `.bin` files, with torch's restricted loader. download: fetch hub ids that
    are not in the local cache. thresholds: a file of your own, as `projclean calibrate` writes it (the shipped ones
    when None). words: look for single words as well, which attacks put into answers that depend on the image.
    questions: what the model is for; it is told whether its answers to them take classes for one another. Raises
    ProjcleanError.
    """
    check_seed(seed)
    limits, access = given_thresholds(thresholds), Access(allow_pickle, download)
    further = Further(words, tuple(questions))
    return examine(
        model, base, images, prompt, projector, seed, device, probe, ignore_elsewhere, progress, access, limits, further
    ).result


def examine(
    model: str | Path,
    base: str | None,
    images: str | Path | None,
    prompt: str,
    projector: str | None,
    seed: int,
    device: str | None,
    probe: bool,
    ignore_elsewhere: bool,
    progress: Progress | None,
    access: Access,
    limits: Thresholds,
    further: Further,
) -> Examined:
    """`scan`, with what the scan was made from."""
    try:
        case = open_case(model, base, projector, access)
    except BaseNotFound as error:
        if base is not None:
            raise
        return Examined(_without_base(model, projector, str(error), prompt, seed, access, limits), None, {})
    tick = (lambda done, total: progress("comparing with the base", done, total)) if progress else None
    elsewhere = tuple(changes_elsewhere(case.suspect, case.base, case.keys, contents=probe, progress=tick))
    bench = found = not_run = None
    unwatched: tuple[str, ...] = ()
    if probe and case.update.changed:
        try:
            bench = set_up(case, images, prompt, projector, seed, device, progress)
        except ModelError as error:
            not_run = str(error)
        else:
            unwatched = case.unwatched(bench.asked.moments)
            if len(unwatched) < sum(layer.changed for layer in case.update.layers):
                try:
                    found = run_probe(case, bench, seed, progress, further)
                except ModelError as error:
                    not_run = str(error)
            elsewhere += tuple(f"parameter {name}: not applied to the model that was run" for name in bench.left_out)
    guard = bench.runner.guard if bench else None
    result = ScanResult(
        str(model),
        str(case.base.path),
        case.base_named_by,
        case.spec.family,
        layer_findings(case, bench.clean.moments if bench else {}),
        elsewhere,
        probe,
        found,
        judge(
            case.update.changed,
            found,
            elsewhere,
            case.update.other_changes,
            ignore_elsewhere,
            case.base_named_by,
            unwatched,
            (*case.caveats(), *((UNATTACHED,) if guard else ()), *(limits.caveats(prompt, further) if found else ())),
            not_run,
            limits,
            probe or case.suspect.is_partial,
        ),
        bench.images if bench else None,
        prompt,
        seed,
        case.digest(),
        guard,
        limits,
    )
    return Examined(result, case.update, bench.clean.moments if bench else {})


def run_probe(
    case: Case, bench: Bench, seed: int, progress: Progress | None, further: Further = NOTHING_FURTHER
) -> probing.Probe:
    """Probe the update with the built-in images.

    Raises ModelError when no layer that changed was seen at work, where no gradient reaches the pixels, or when a run
    of the model fails.
    """
    unwatched = case.unwatched(bench.asked.moments)
    if unwatched and len(unwatched) == sum(layer.changed for layer in case.update.layers):
        raise ModelError(
            f"{case.model.path}: no calibration image was seen passing through {_names(unwatched)}, all that changed; "
            "use scan --no-probe to look at the weights alone"
        )
    tick = (lambda done, total: progress("probing", done, total)) if progress else None
    settings = ProbeSettings(seed=seed)
    if further.words:
        settings = replace(settings, words=probing.WORDS)
    asked = bench.asked
    with running(case.model.path), quick(bench.runner):
        try:
            return probing.probe(
                bench.runner, case.update, asked.moments, asked.batches, asked.shown, settings, tick, further.questions
            )
        except NotDifferentiable as error:
            path = case.model.path
            raise ModelError(f"{path}: the probe cannot follow its images to its answers ({error})") from error


def layer_findings(case: Case, moments: Mapping[str, Moments]) -> tuple[LayerFinding, ...]:
    """What the weights say, layer by layer; the off-clean share needs moments."""
    findings = []
    for layer in case.update.layers:
        delta = layer.delta
        energy, known = delta.norm().item(), moments.get(layer.name)
        off = None
        if known is not None and energy > 0:
            off = (residual(delta, known, STRENGTH).norm().item() / energy) ** 2
        size = (delta.shape[0], delta.shape[1])
        relative = energy / max(layer.base.norm().item(), 1e-12)
        findings.append(LayerFinding(layer.name, size, relative, stable_rank(delta), off))
    return tuple(findings)


def _names(layers: Sequence[str]) -> str:
    return layers[0] if len(layers) == 1 else f"{layers[0]} and {len(layers) - 1} more"


def _without_base(
    model: str | Path,
    pattern: str | None,
    why: str,
    prompt: str,
    seed: int,
    access: Access,
    limits: Thresholds,
) -> ScanResult:
    suspect = open_suspect(model, pattern, access)
    spec = None if isinstance(suspect, Adapter) else find_projector(suspect, pattern)
    notes = guess_caveats(spec) if spec else ()
    verdict = Verdict("inconclusive", f"there is no base to compare with: {why}", notes)
    family = spec.family if spec else "unknown"
    return ScanResult(
        str(model), None, None, family, (), (), False, None, verdict, None, prompt, seed, {}, thresholds=limits
    )
