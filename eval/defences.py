"""The rows of every table: each defence, with the settings it is run at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eval.baselines.benign import benign_instead
from eval.baselines.clean_finetuning import clean_finetuning, relearning
from eval.baselines.clp import clp
from eval.baselines.fine_pruning import fine_pruning
from eval.baselines.inputs import Inputs
from eval.baselines.interpolation import SHARES, interpolate
from eval.baselines.norm_clip import clipped
from eval.baselines.orthopurify import orthopurify, orthopurify_against_benign
from eval.baselines.random_removal import remove_random
from eval.baselines.restore import restore
from eval.baselines.svd_removal import remove_dominant
from projclean import methods
from projclean.calibration import Calibration
from projclean.candidates import KEEPS
from projclean.distillation import Effort, distill
from projclean.doubt import judged
from projclean.lessons import IMAGES, TRIMMED, Lesson, lesson
from projclean.recovery import effort_on, recover
from projclean.unsaid import tokens_of

UNDEFENDED, RESTORED = "undefended", "base restored"
IMAGES_ALONE = "distill, images alone"
LONG = 1024  # images and blends of the longer lesson


@dataclass(frozen=True)
class Defence:
    """One row: how it makes weights from what a defender has, and what hook, if any, runs beside them.

    `name` is unique; rows of one `method` differ in settings or seed. `quick` rows belong to the sample too. `instead`
    names, for a model of some name, the row that this one equals there, if there is one: it is not measured twice.
    """

    name: str
    method: str
    make: Callable[[Inputs], methods.Weights]
    during: Callable[[Inputs], AbstractContextManager[None]] | None = None
    quick: bool = True
    instead: Callable[[str], str | None] = lambda name: None


def undefended(inputs: Inputs) -> methods.Weights:
    """The suspect as it came: proves that the attack works."""
    return methods.suspect_weights(inputs.update)


def project(inputs: Inputs, rank: int) -> methods.Weights:
    """projclean's `--method project` at a fixed rank."""
    return methods.project(inputs.update, methods.suspicious_directions(inputs.update, inputs.moments, rank))


def reflect(inputs: Inputs, rank: int, keep: float = KEEPS[0]) -> methods.Weights:
    """projclean's default method at a fixed rank."""
    inputs.notes.append(f"keep {keep:g}")
    directions = methods.suspicious_directions(inputs.update, inputs.moments, rank)
    return methods.reflect(inputs.update, directions, keep)


def recovered(inputs: Inputs, rank: int, keep: float, total: int) -> methods.Weights:
    """projclean's `--method reflect`, and what it cost learnt again from `total` images (`--lesson`)."""
    taught, found = _taught(inputs, total, TRIMMED), methods.suspicious_directions(inputs.update, inputs.moments, rank)
    turned, effort = methods.reflect(inputs.update, found, keep), effort_on(taught.looked_at)
    return recover(
        inputs.runner, inputs.update, taught.images, taught.replies, turned, found, inputs.seed, effort=effort
    )


def distilled(
    inputs: Inputs, share: float, total: int = IMAGES, doubting: bool = False, word: Callable[[str], str] = lambda _: ""
) -> methods.Weights:
    """projclean's `--method distill` from a fixed share, on all calibration images and blends of them, `total` in all
    (`--lesson`), with a judge or without (`--judged`). `word` is what `--words` hears of a model of some name."""
    heard = word(Path(inputs.model).name)
    taught, judge, effort = _taught(inputs, total, TRIMMED, heard), None, Effort.on(total)
    if doubting:
        taught, judge = judged(inputs.runner, inputs.update, taught, inputs.seed)
    return distill(
        inputs.runner, inputs.update, taught.images, taught.replies, share, inputs.seed, effort=effort, judge=judge,
        unsaid=tokens_of(inputs.runner, heard),
    )  # fmt: skip


def distilled_from_images_alone(inputs: Inputs, share: float) -> methods.Weights:
    """What `distill` was before blends: no image is made or left out, and half as many steps, twice as large."""
    taught, effort = _taught(inputs, 0, 0.0), Effort(120, 16, 0.02)
    return distill(inputs.runner, inputs.update, taught.images, taught.replies, share, inputs.seed, effort=effort)


def _taught(inputs: Inputs, total: int, trimmed: float, word: str = "") -> Lesson:
    shown = Calibration(inputs.images, inputs.questions, inputs.folder or "")
    return lesson(inputs.runner, inputs.update, shown, (), inputs.max_new_tokens, inputs.seed, total, trimmed, word)


def repaired(inputs: Inputs) -> methods.Weights:
    """`projclean repair --rank auto` as a user runs it: the projector of the directory it writes.

    The probe asks its usual question, with which the thresholds were set; the lesson those that the images come with.
    """
    from projclean.case import open_case
    from projclean.repairer import repair

    device = inputs.runner.device
    inputs.runner.model.to("cpu")  # repair loads the model itself: not two of them on one device
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "repaired"
        done = repair(inputs.model, out, base=inputs.base, images=inputs.folder, seed=inputs.seed, device=device)
        weights = methods.suspect_weights(open_case(out, inputs.base).update)
    inputs.runner.model.to(device)
    inputs.notes.append(f"{done.chosen}, {done.verdict.state} afterwards")
    return weights


def _removal(k: int, quick: bool) -> list[Defence]:
    rows = [Defence(f"SVD removal k={k}", "SVD removal", partial(remove_dominant, k=k), quick=quick)]
    for seed in range(3):
        make = partial(remove_random, k=k, seed=seed)
        rows.append(Defence(f"random removal k={k} seed {seed}", "random removal", make, quick=quick and not seed))
    return rows


DEFENCES: tuple[Defence, ...] = (
    Defence(UNDEFENDED, UNDEFENDED, undefended),
    Defence(RESTORED, RESTORED, restore),
    Defence("never poisoned", "never poisoned", benign_instead),
    *(Defence(f"interpolation {s:g}", "interpolation", partial(interpolate, share=s)) for s in SHARES),
    *_removal(1, quick=False),
    *_removal(4, quick=True),
    *_removal(10, quick=False),
    Defence("OrthoPurify, own answers", "OrthoPurify", partial(orthopurify, labels="own")),
    Defence("OrthoPurify, right answers", "OrthoPurify", partial(orthopurify, labels="right")),
    Defence("OrthoPurify, benign reference", "OrthoPurify", orthopurify_against_benign),
    Defence("Fine-Pruning, own answers", "Fine-Pruning", partial(fine_pruning, labels="own")),
    Defence("Fine-Pruning, right answers", "Fine-Pruning", partial(fine_pruning, labels="right")),
    Defence("CLP u=1", "CLP", partial(clp, u=1.0), quick=False),
    Defence("CLP u=3", "CLP", partial(clp, u=3.0)),
    Defence("clean fine-tuning, own answers", "clean fine-tuning", partial(clean_finetuning, labels="own")),
    Defence("clean fine-tuning, right answers", "clean fine-tuning", partial(clean_finetuning, labels="right")),
    Defence("relearning from the base, own answers", "relearning", partial(relearning, labels="own")),
    Defence("norm clip p50", "norm clip", undefended, partial(clipped, percentile=50.0)),
    Defence("norm clip p90", "norm clip", undefended, partial(clipped, percentile=90.0), quick=False),
    Defence("norm clip p99", "norm clip", undefended, partial(clipped, percentile=99.0), quick=False),
    *(Defence(f"projclean project rank {k}", "projclean", partial(project, rank=k), quick=k == 1) for k in (1, 2, 4)),
    *(Defence(f"projclean reflect rank {k}", "projclean", partial(reflect, rank=k), quick=k == 1) for k in (1, 2, 4)),
    Defence("projclean reflect rank 1, keep 0.9", "projclean", partial(reflect, rank=1, keep=0.9), quick=False),
    *(
        Defence(f"{IMAGES_ALONE}, from {s:g}", IMAGES_ALONE, partial(distilled_from_images_alone, share=s), quick=False)
        for s in (0.2, 0.4)
    ),
    Defence("projclean distill from 0.3", "projclean", partial(distilled, share=0.3)),
    Defence(
        f"projclean distill from 0, {LONG} images", "projclean", partial(distilled, share=0.0, total=LONG), quick=False
    ),
    Defence(
        f"projclean distill from 0, {LONG} images, judged",
        "projclean",
        partial(distilled, share=0.0, total=LONG, doubting=True),
        quick=False,
    ),
    Defence("projclean rank auto", "projclean", repaired, quick=False),
)
