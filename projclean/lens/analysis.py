"""`lens_report`: the ProjLens analyses of a suspect, with benign references beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from projclean.access import Access
from projclean.calibration import built_in, from_folder
from projclean.case import Progress, open_case, overlay
from projclean.errors import OptionError
from projclean.evalset import EvalSet, Item, load_evalset
from projclean.evaluation import score
from projclean.lens import neurons, shift, words
from projclean.lens.features import ImageSet, batches, project
from projclean.lens.rank_curves import Measure, RankCurves, choose_ranks, rank_curves
from projclean.lens.spectra import Spectrum, spectra
from projclean.methods import base_weights, suspect_weights
from projclean.metrics import Rate, normalize, rate
from projclean.model import Runner, Weights
from projclean.running import running
from projclean.seeds import check_seed
from projclean.update import Update

PROMPT = "Describe the image."
IMAGES, ITEMS = 200, 64  # at most, a set: for the features, and for the rank curves
MAX_NEW_TOKENS = 20  # where no evaluation set says


@dataclass(frozen=True)
class Subject:
    """One fine-tune's analyses: the suspect's, or a reference's on the same images.

    `contrasts` is empty for a projector of one matrix, which has no hidden layer. `alignments` are between this
    model's sets of images; `with_suspect` is the cosine of its shared direction with the suspect's, set by set.
    """

    name: str
    spectra: tuple[Spectrum, ...]
    contrasts: tuple[neurons.Contrast, ...]
    shifts: tuple[shift.Shift, ...]
    alignments: tuple[shift.Alignment, ...]
    with_suspect: Mapping[str, float]
    words: tuple[words.WordList, ...]


@dataclass(frozen=True)
class LensResult:
    """A lens report. `sets` says how many images each set has, the clean one first. Holds no timings."""

    model: str
    base: str
    base_named_by: str
    family: str
    images: str
    sets: Mapping[str, int]
    evalset: str | None
    suspect: Subject
    references: tuple[Subject, ...]
    curves: RankCurves | None
    curve_items: int
    prompt: str
    seed: int
    sha256: Mapping[str, str]


def lens_report(
    model: str | Path,
    base: str | None = None,
    images: str | Path | None = None,
    evalset: str | Path | None = None,
    references: Sequence[str | Path] = (),
    ranks: Sequence[int] | None = None,
    curves: bool = True,
    grid: bool = True,
    items: int = ITEMS,
    prompt: str = PROMPT,
    projector: str | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
    allow_pickle: bool = False,
    download: bool = False,
) -> LensResult:
    """Analyse the projector update of `model` against its base. Raises ProjcleanError.

    allow_pickle and download are as in `scan`.

    Clean images are those of the folder `images`, else the evaluation set's, else built-in ones; triggered images
    are the evaluation set's attacks'. references: benign fine-tunes of the same base, of which only the projector is
    looked at. ranks, items: what the rank curves try, and on how many items of each set; grid False leaves out the
    pairs of different ranks, curves False all of them.
    """
    check_seed(seed)
    if items < 1:
        raise OptionError(f"--items {items}: must be at least 1")
    access = Access(allow_pickle, download)
    case = open_case(model, base, projector, access)
    ranks = choose_ranks(case.update, ranks)
    loaded = load_evalset(evalset) if evalset is not None else None
    updates = {str(model): case.update}
    updates |= {str(path): open_case(path, str(case.base.path), projector, access).update for path in references}
    if len(updates) < 1 + len(references):
        raise OptionError("--reference: name every model once, and not the suspect itself")
    sets, source = image_sets(loaded, images, prompt, seed)
    runner = Runner(case.model, projector, device)
    overlay(runner, case)
    measured = None
    with running(case.model.path):
        layers = list(runner.layer_inputs(next(batches(runner, sets[0]))))
        records = _watch(runner, updates, sets, layers, progress)
        ours = records[str(model)].directions()
        reading = _Reading(words.vocabulary_of(runner.model, runner.processor.tokenizer), _targets(runner, loaded))
        suspect, *controls = (_subject(name, record, ours, reading, seed) for name, record in records.items())
        if curves:
            measure = _scored(runner, loaded, items) if loaded else _compared(runner, sets[0], case.update, items)
            tick = (lambda done, total: progress("rank curves", done, total)) if progress else None
            measured = rank_curves(case.update, layers, measure, ranks, grid, tick)
    return LensResult(
        str(model),
        str(case.base.path),
        case.base_named_by,
        case.spec.family,
        source,
        {images.name: len(images.images) for images in sets},
        str(loaded.path) if loaded else None,
        suspect,
        tuple(controls),
        measured,
        min(items, len(loaded.clean) if loaded else len(sets[0].images)),
        prompt,
        seed,
        case.digest(),
    )


def image_sets(
    evalset: EvalSet | None, images: str | Path | None, prompt: str, seed: int
) -> tuple[tuple[ImageSet, ...], str]:
    """The clean images and every attack's, at most 200 of each, and where the clean ones come from."""
    if images is None and evalset is not None:
        sets = [_of_items("clean", evalset.clean)]
        source = f"{len(sets[0].images)} clean images of {evalset.path}"
    else:
        shown = built_in(seed, prompt) if images is None else from_folder(images, prompt)
        sets, source = [ImageSet("clean", shown.pictures, shown.questions)], shown.source
    sets += [_of_items(attack.name, attack.items) for attack in (evalset.attacks if evalset else ())]
    return tuple(sets), source


def _of_items(name: str, items: Sequence[Item]) -> ImageSet:
    chosen = items[:IMAGES]
    return ImageSet(name, tuple(item.image() for item in chosen), tuple(item.question for item in chosen))


class _Record:
    """What is kept of one fine-tune while images run through it."""

    def __init__(self, update: Update, sets: Sequence[ImageSet], last: str) -> None:
        self.update = update
        self.weights = suspect_weights(update)
        self.shifts = {images.name: shift.Shifts() for images in sets}
        self.firing = {images.name: neurons.Firing() for images in sets}
        self.halves = (neurons.Firing(), neurons.Firing())  # of the clean images: what differs by chance
        layer = next(layer for layer in update.layers if layer.name == last)
        both = layer.suspect_bias is not None and layer.base_bias is not None
        self.bias_change = layer.suspect_bias - layer.base_bias if both else None  # type: ignore[operator]
        self.base_firing: Mapping[str, neurons.Firing] = {}  # the base's, once it has been seen

    def directions(self) -> dict[str, torch.Tensor]:
        """Each set's shared direction."""
        return {name: shift.shared_direction(record.per_image) for name, record in self.shifts.items()}

    def contrasts(self) -> tuple[neurons.Contrast, ...]:
        """Clean against triggered in this model and in the base, base against this model, and clean against clean."""
        clean, *attacks = self.firing
        if not self.firing[clean].images:
            return ()
        found = []
        if self.halves[1].images:
            found.append(neurons.contrast("clean, one half → the other", *self.halves))
        for attack in attacks:
            found.append(neurons.contrast(f"{clean} → {attack}", self.firing[clean], self.firing[attack]))
            found.append(
                neurons.contrast(f"{clean} → {attack}, in the base", self.base_firing[clean], self.base_firing[attack])
            )
        found += [
            neurons.contrast(f"base → this model, {name}", self.base_firing[name], self.firing[name])
            for name in self.firing
        ]
        return tuple(found)


def _watch(
    runner: Runner,
    updates: Mapping[str, Update],
    sets: Sequence[ImageSet],
    layers: Sequence[str],
    progress: Progress | None,
) -> dict[str, _Record]:
    """Run every set of images through the base and through every fine-tune's projector."""
    records = {name: _Record(update, sets, layers[-1]) for name, update in updates.items()}
    base: Weights = base_weights(next(iter(updates.values())))
    base_firing = {images.name: neurons.Firing() for images in sets}
    total, done = sum(len(images.images) for images in sets), 0
    for images in sets:
        for batch in batches(runner, images):
            hidden, plain = project(runner, batch, base, layers)
            if hidden is not None:
                base_firing[images.name].add(hidden)
            for record in records.values():
                hidden, output = project(runner, batch, record.weights, layers)
                record.shifts[images.name].add(plain, output)
                if hidden is not None:
                    record.firing[images.name].add(hidden)
                    if images is sets[0]:
                        record.halves[0].add(hidden[::2])
                        record.halves[1].add(hidden[1::2])
            done += batch.images
            if progress:
                progress("embedding images", done, total)
    for record in records.values():
        record.base_firing = base_firing
    return records


@dataclass(frozen=True)
class _Reading:
    """How directions are read as words, and the attacks' targets as tokens."""

    vocabulary: words.Vocabulary
    targets: Mapping[str, Sequence[int]]


def _subject(name: str, record: _Record, suspect: Mapping[str, torch.Tensor], reading: _Reading, seed: int) -> Subject:
    own = record.directions()
    clean, *attacks = record.shifts
    means = {known: shifts.per_image.mean(0) for known, shifts in record.shifts.items()}
    read = own | {f"{attack} − {clean}": means[attack] - means[clean] for attack in attacks}
    context = record.shifts[clean].base_per_image
    return Subject(
        name,
        spectra(record.update),
        record.contrasts(),
        tuple(shift.measure(known, shifts, record.bias_change, seed) for known, shifts in record.shifts.items()),
        shift.align(record.shifts),
        {known: (own[known] @ suspect[known]).item() for known in own},
        tuple(
            found
            for known, direction in read.items()
            for found in words.read(known, direction, context, reading.vocabulary, reading.targets)
        ),
    )


def _targets(runner: Runner, evalset: EvalSet | None) -> dict[str, list[int]]:
    """Token ids of the target of every attack that has one for all items, as the model would answer it."""
    tokenizer = runner.processor.tokenizer
    found = {
        attack.name: list(tokenizer(" " + attack.target, add_special_tokens=False)["input_ids"])
        for attack in (evalset.attacks if evalset else ())
        if attack.target
    }
    return {name: tokens for name, tokens in found.items() if tokens}


def _scored(runner: Runner, evalset: EvalSet, items: int) -> Measure:
    """CA and each attack's ASR on the first items of every set."""
    attacks = tuple(replace(attack, items=attack.items[:items]) for attack in evalset.attacks)
    short = replace(evalset, clean=evalset.clean[:items], attacks=attacks)

    def measure(weights: Weights) -> Mapping[str, Rate]:
        runner.set_weights(weights)
        found = score(runner, short, "")
        return {"CA": found.ca} | {f"ASR {attack.name}": attack.asr for attack in found.attacks}

    return measure


def _compared(runner: Runner, images: ImageSet, update: Update, items: int) -> Measure:
    """Shares of clean images that are answered as the suspect, and as the base, answers them."""
    few = replace(images, images=images.images[:items], prompts=images.prompts[:items])
    ready = list(batches(runner, few))

    def answers(weights: Weights) -> list[str]:
        runner.set_weights(weights)
        return [normalize(answer) for batch in ready for answer in runner.answers(batch, MAX_NEW_TOKENS)]

    suspect, base = answers(suspect_weights(update)), answers(base_weights(update))

    def measure(weights: Weights) -> Mapping[str, Rate]:
        said = answers(weights)
        return {
            "as the suspect": rate([a == b for a, b in zip(said, suspect, strict=True)]),
            "as the base": rate([a == b for a, b in zip(said, base, strict=True)]),
        }

    return measure
