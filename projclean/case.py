"""A suspect beside its base, opened and paired; and the same on the bench: loaded, with calibration batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from projclean.access import NOTHING_MORE, Access
from projclean.adapter import Adapter, is_adapter, open_adapter
from projclean.calibration import BATCH, DRAWN, MOST, Calibration, chosen, from_folder
from projclean.checkpoint import Checkpoint, open_checkpoint, read_tensor
from projclean.errors import MismatchError, ModelError
from projclean.hub import locate_model
from projclean.layering import lay_over, place, put_in
from projclean.lineage import find_base
from projclean.methods import base_weights, suspect_weights
from projclean.model import Prepared, Runner
from projclean.pickles import SUFFIXES, open_pickle
from projclean.projectors import GUESS, ProjectorSpec, find_projector
from projclean.quantised import plain_view
from projclean.running import running
from projclean.subspace import Moments
from projclean.update import Update, read_update

if TYPE_CHECKING:
    from PIL.Image import Image

#: progress(stage, done, total)
Progress = Callable[[str, int, int], None]

ITSELF = "the base is the suspect itself, so nothing can differ; name the model that it was tuned from"
ANSWER_TOKENS = 20  # of an answer by which built-in images are chosen


@dataclass(frozen=True)
class Case:
    """Suspect and base with their projectors, and the update between them."""

    suspect: Checkpoint
    spec: ProjectorSpec
    base: Checkpoint
    base_spec: ProjectorSpec
    base_named_by: str
    update: Update

    @property
    def model(self) -> Checkpoint:
        """The directory that can be run: the suspect's, or the base's around a bare projector or an adapter."""
        return self.base if self.suspect.is_partial else self.suspect

    @property
    def target(self) -> Checkpoint:
        """What a repair writes: the suspect's directory or adapter, or the base's around a bare projector."""
        return self.base if self.suspect.is_bare else self.suspect

    @property
    def target_spec(self) -> ProjectorSpec:
        """The projector as `target` names it."""
        return self.base_spec if self.suspect.is_bare else self.spec

    @property
    def keys(self) -> frozenset[str]:
        """The projector's tensors under the names of either side."""
        return self.spec.keys | self.base_spec.keys

    def unwatched(self, moments: Mapping[str, Moments]) -> tuple[str, ...]:
        """Names of the layers that changed and whose inputs the calibration images do not show."""
        return tuple(layer.name for layer in self.update.layers if layer.changed and layer.name not in moments)

    def caveats(self) -> tuple[str, ...]:
        """What a verdict on this case must say of how the projector was found."""
        same = self.base.path.resolve() == self.suspect.path.resolve()
        return (*guess_caveats(self.spec), *([ITSELF] if same else []))

    def digest(self) -> dict[str, str]:
        """SHA-256 over each projector's matrices and biases (float32, in name order)."""
        result = {}
        for side in ("suspect", "base"):
            hasher = hashlib.sha256()
            for layer in self.update.layers:
                for tensor in (getattr(layer, side), getattr(layer, f"{side}_bias")):
                    if tensor is not None:
                        hasher.update(tensor.contiguous().numpy().tobytes())
            result[side] = hasher.hexdigest()
        return result


@dataclass(frozen=True)
class Seen:
    """Images, the same in batches, and the moments of the projector's inputs on them."""

    shown: Calibration
    batches: tuple[Prepared, ...]
    moments: dict[str, Moments]


@dataclass(frozen=True)
class Bench:
    """The model loaded, and what it was watched on.

    `clean` are calibration images: what they do not need of the update is what a repair removes. `learnt` are those and
    whatever more were given, for a repair that learns from them. `asked` are what the probe asks about: always the
    built-in images, since its thresholds were set with them. `held_out` are calibration images that none of that has
    seen, for checking that clean behaviour stays. `left_out` are parameters of an adapter that have no place in the
    model that is run.
    """

    runner: Runner
    clean: Seen
    learnt: Calibration
    asked: Seen
    held_out: tuple[Prepared, ...]
    left_out: tuple[str, ...] = ()

    @property
    def images(self) -> str:
        """Where the calibration images come from."""
        return self.learnt.source


def guess_caveats(spec: ProjectorSpec) -> tuple[str, ...]:
    """That a projector was guessed, and what was taken for it."""
    if not spec.guessed:
        return ()
    module = spec.family.removeprefix(GUESS).strip()
    return (f"the projector ({module}) was guessed from the shapes of the weights; check it or pass --projector",)


def open_case(
    model: str | Path, base: str | None = None, pattern: str | None = None, access: Access = NOTHING_MORE
) -> Case:
    """Open a suspect (model directory, adapter, or bare projector) and its base.

    Raises a ProjcleanError when it cannot.
    """
    opened = open_suspect(model, pattern, access)
    found = find_base(opened, base, access)
    if found.checkpoint.is_bare:
        raise MismatchError(f"{found.checkpoint.path}: the base must be a model directory, not a projector file")
    around = plain_view(found.checkpoint, pattern)
    suspect = lay_over(opened, around) if isinstance(opened, Adapter) else opened
    spec, base_spec = find_projector(suspect, pattern), find_projector(around, pattern)
    update = read_update(suspect, spec, around, base_spec)
    return Case(suspect, spec, around, base_spec, found.named_by, update)


def open_suspect(model: str | Path, pattern: str | None = None, access: Access = NOTHING_MORE) -> Checkpoint | Adapter:
    """Open a model directory, an adapter, or a bare projector file, on disk or in the hub cache."""
    path = locate_model(model, access)
    if path.is_dir() and is_adapter(path):
        return open_adapter(path, access)
    if path.is_file() and path.suffix in SUFFIXES:
        return open_pickle(path, access)
    return plain_view(open_checkpoint(path), pattern)


def set_up(
    case: Case,
    images: str | Path | None,
    prompt: str,
    pattern: str | None,
    seed: int,
    device: str | None,
    progress: Progress | None,
    most: int = MOST,
) -> Bench:
    """Load the model and watch the suspect's projector on two thirds of the calibration images, and of those that the
    probe asks about where they are others. `most` images of a folder are looked at; the projector is watched on no
    more of them than of `MOST`, whose batches stay in memory."""
    given = None if images is None else from_folder(images, prompt, most)
    runner = Runner(case.model, pattern, device)
    left_out = overlay(runner, case)
    own = _seen_by_base(case, runner, seed, prompt, progress)
    learnt, held_out = (given or own).parted()
    clean = _watch(case, runner, learnt.of(range(min(len(learnt.pictures), MOST))), progress)
    asked = _watch(case, runner, own.parted()[0], progress) if given else clean
    _check_finite(case, runner, asked.batches[0])
    kept = tuple(runner.batches(held_out.pictures, held_out.questions, BATCH))
    return Bench(runner, clean, learnt, asked, kept, left_out)


def _seen_by_base(case: Case, runner: Runner, seed: int, prompt: str, progress: Progress | None) -> Calibration:
    """Built-in images of which the base says different things. Leaves the suspect's weights set."""
    asked = 0

    def ask(pictures: Sequence[Image]) -> list[str]:
        nonlocal asked
        asked += len(pictures)
        if progress:
            progress("choosing images", min(asked, DRAWN), DRAWN)
        return runner.answers(runner.prepare(pictures, prompt), ANSWER_TOKENS)

    runner.set_weights(base_weights(case.update))
    with running(case.model.path):
        found = chosen(seed, prompt, ask)
    runner.set_weights(suspect_weights(case.update))
    return found


def _watch(case: Case, runner: Runner, shown: Calibration, progress: Progress | None) -> Seen:
    tick = (lambda done, total: progress("calibrating", done, total)) if progress else None
    batches = tuple(runner.batches(shown.pictures, shown.questions, BATCH))
    with running(case.model.path):
        moments = runner.moments(batches, tick)
    return Seen(shown, batches, moments)


@torch.no_grad()
def _check_finite(case: Case, runner: Runner, batch: Prepared) -> None:
    """Refuse a model that answers with NaN: what it says is empty, and a probe that hears nothing would clear it.

    Leaves the suspect's weights set.
    """
    for side, weights in (("base's", base_weights(case.update)), ("suspect's", suspect_weights(case.update))):
        runner.set_weights(weights)
        with running(case.model.path):
            scores = runner.next_token_logits(batch)
        if scores.isnan().any() or scores.isposinf().any():
            raise ModelError(
                f"{case.model.path}: with the {side} projector it answers with NaN or infinity; its weights are "
                "damaged, or overflow in the type that they are stored in"
            )


def overlay(runner: Runner, case: Case) -> tuple[str, ...]:
    """Set the suspect's projector, and bring what else a bare projector or an adapter holds into the base's model.

    Returns the parameters of an adapter that have no place in it. Raises ModelError when the projector has none.
    """
    missing = sorted({layer.name for layer in case.update.layers} - set(runner.layers))
    if missing:
        raise ModelError(f"{case.model.path}: the loaded model has no projector layer {missing[0]}")
    left_out: list[str] = []
    if case.suspect.is_partial:
        runner.set_others({name: read_tensor(case.suspect, key) for name, key in case.spec.others.items()})
    if case.suspect.adapter is not None:
        places = place(case.suspect.adapter, case.base.tensors)
        done = {name for name, key in places.items() if key in case.spec.keys}
        left_out = put_in(runner, case.suspect.adapter, done)
    runner.set_weights(suspect_weights(case.update))
    return tuple(left_out)
