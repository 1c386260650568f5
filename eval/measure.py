"""Measures one row: one defence on one model. The same seed gives the same row."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, Any

from eval.baselines.inputs import Inputs, NotApplicable
from eval.defences import Defence
from eval.suites import Model, Suite
from projclean import __version__
from projclean.calibration import MOST, built_in, from_folder
from projclean.case import Case, open_case, set_up
from projclean.dtypes import TORCH
from projclean.errors import EvalError
from projclean.evalset import EvalSet, load_evalset
from projclean.evaluation import Score, score
from projclean.images import SUFFIXES
from projclean.methods import Weights, suspect_weights
from projclean.scanner import scan

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]
SCHEMA = 1


@dataclass(frozen=True)
class Settings:
    """What a row depends on beside model and defence. `limit` items of every set; None is all."""

    seed: int = 0
    limit: int | None = None
    device: str | None = None


@dataclass(frozen=True)
class Subject:
    """A model of a suite, opened: its weights, its evaluation set, and a digest of all that a row depends on."""

    model: Model
    case: Case
    evalset: EvalSet
    settings: Settings
    learning_rate: float
    digest: str


def open_subject(model: Model, suite: Suite, settings: Settings) -> Subject:
    """Open without loading the model. Raises ProjcleanError."""
    case = open_case(model.path, model.base)
    evalset = load_evalset(model.evalset)
    if settings.limit is not None:
        attacks = tuple(replace(attack, items=attack.items[: settings.limit]) for attack in evalset.attacks)
        evalset = replace(evalset, clean=evalset.clean[: settings.limit], attacks=attacks)
    return Subject(model, case, evalset, settings, suite.learning_rate, _digest(model, case, evalset, suite, settings))


def _digest(model: Model, case: Case, evalset: EvalSet, suite: Suite, settings: Settings) -> str:
    hasher = hashlib.sha256()
    about = [SCHEMA, __version__, settings.seed, suite.learning_rate, evalset.match, evalset.max_new_tokens]
    reference = open_case(model.benign_reference, model.base).digest() if model.benign_reference else None
    hasher.update(json.dumps([about, case.digest(), reference]).encode())
    hasher.update(json.dumps([[attack.name, attack.target, attack.match] for attack in evalset.attacks]).encode())
    for items in (evalset.clean, *(attack.items for attack in evalset.attacks)):
        for item in items:
            told = [item.question, item.answer, item.target, item.trigger, item.seed]
            hasher.update(json.dumps(told).encode())
            hasher.update(item.file.read_bytes() if item.data is None else item.data)
    for file in [*_pictures(model.calibration), *_metadata(model.calibration)]:
        hasher.update(file.read_bytes())
    return hasher.hexdigest()[:16]


def load_inputs(subject: Subject) -> Inputs:
    """Load the model and what a defender has: the calibration images, with their right answers where known."""
    model, case, settings = subject.model, subject.case, subject.settings
    asked = [item.question for item in subject.evalset.clean]
    prompt = mode(asked)
    bench = set_up(case, model.calibration, prompt, None, settings.seed, settings.device, None)
    folder, seed = model.calibration, settings.seed
    shown = from_folder(folder, prompt) if folder else built_in(seed, prompt)
    known = _known_answers(model.calibration, set(asked))
    reference = None
    if model.benign_reference is not None:
        reference = suspect_weights(open_case(model.benign_reference, model.base).update)
    return Inputs(
        bench.runner,
        case.update,
        bench.clean.moments,
        shown.pictures,
        shown.questions,
        tuple(answer for _, answer in known) if known else None,
        reference,
        settings.seed,
        subject.learning_rate,
        subject.evalset.max_new_tokens,
        subject.evalset.match,
        str(model.path),
        model.base,
        str(model.calibration) if model.calibration else None,
    )


def defence_row(subject: Subject, inputs: Inputs, defence: Defence) -> Row:
    """Build the defended weights, rounded as they would be stored, and evaluate them."""
    inputs.notes.clear()
    try:
        weights = as_stored(subject.case, defence.make(inputs))
    except NotApplicable as error:
        return {"note": f"not applicable: {error}"}
    inputs.runner.set_weights(weights)
    with defence.during(inputs) if defence.during else nullcontext():
        result = score(inputs.runner, subject.evalset, defence.name)
    return {**_bits(result), "note": "; ".join(inputs.notes), "on": _machine(inputs.runner.device)}


def _machine(device: str) -> str:
    """What runs the model, and the library."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return f"{name}, PyTorch {torch.__version__.partition('+')[0]}"


def scan_row(subject: Subject) -> Row:
    """What `projclean scan` says of the model, with built-in images."""
    settings = subject.settings
    result = scan(subject.model.path, base=subject.model.base, seed=settings.seed, device=settings.device)
    probe = result.probe
    return {
        "verdict": result.verdict.state,
        "score": round(probe.foreign, 4) if probe else None,
        "said": probe.said.text if probe and probe.said else None,
    }


def as_stored(case: Case, weights: Weights) -> Weights:
    """Weights through the dtype of the suspect's own files, so that what is measured is what could be shipped."""

    def through(tensor: torch.Tensor | None, key: str | None) -> Any:
        return None if tensor is None or key is None else tensor.to(TORCH[case.suspect.tensors[key].dtype]).float()

    specs = {layer.name: layer for layer in case.spec.layers}
    return {
        name: (through(weight, specs[name].weight), through(bias, specs[name].bias))
        for name, (weight, bias) in weights.items()
    }


def _bits(result: Score) -> Row:
    return {
        "ca": asdict(result.ca),
        "correct": _pack(result.correct),
        "attacks": [
            {
                "name": attack.name,
                "asr": asdict(attack.asr),
                "ra": asdict(attack.ra),
                "hits": _pack(attack.hits),
                "right": _pack(attack.right),
            }
            for attack in result.attacks
        ],
    }


def _pack(hits: tuple[bool, ...]) -> str:
    return "".join("1" if hit else "0" for hit in hits)


def _pictures(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)[:MOST]


def _metadata(folder: Path | None) -> list[Path]:
    """The file that has the questions and right answers of a folder's images, if there is one."""
    file = folder / "metadata.jsonl" if folder else None
    return [file] if file and file.is_file() else []


def _known_answers(folder: Path | None, asked: set[str]) -> list[tuple[str, str]] | None:
    """Question and right answer of every calibration image, where the folder says so and asks what the test asks."""
    metadata = next(iter(_metadata(folder)), None)
    if metadata is None:
        return None
    try:
        lines = [json.loads(line) for line in metadata.read_text(encoding="utf-8").splitlines() if line.strip()]
        told = {line["file_name"]: (line["question"], line["answer"]) for line in lines}
    except (ValueError, TypeError, KeyError) as error:
        raise EvalError(f"{metadata}: every line needs file_name, question and answer") from error
    found = [told.get(file.name) for file in _pictures(folder)]
    known = [pair for pair in found if pair is not None and pair[0] in asked]
    return known if len(known) == len(found) else None
