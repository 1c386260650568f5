"""What a repaired model's card says of its repair."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from projclean import __version__
from projclean.printable import printable

if TYPE_CHECKING:
    from projclean.repairer import RepairResult


def _without_folders(images: str) -> str:
    """Where images came from, but for the folders on the way there: a card is published."""
    told, between, path = images.partition(" images from ")
    return f"{told}{between}`{_name(path)}`" if between else images


def _name(path: str) -> str:
    """The last part of a path, as text that ends no code span and begins no line."""
    return printable(Path(path).name).replace("`", "'")


def provenance(result: RepairResult) -> str:
    """The section, in Markdown."""
    state = {"clean": "passes", "suspicious": "STILL FAILS", "inconclusive": "neither passes nor fails"}
    outcome = "was not put to" if result.images == "no images" else state[result.verdict.state]
    own = result.thresholds.source and _name(result.thresholds.source)
    limits = f", by the thresholds of `{own}`" if own and result.after else ""
    told = f"{outcome} projclean's own probe{limits}"
    if result.obeyed:
        told = f"STILL OBEYS an attack of the evaluation set that it was measured on ({', '.join(result.obeyed)})"
    guard = ""
    if result.guard:
        guard = (
            f"\n**This model has a guard that must be attached**: {result.guard.described}. Load it with "
            "`projclean.load`. transformers alone leaves the guard out, and then this model is not the repaired one.\n"
        )
    return (
        "## Repaired with projclean\n\n"
        f"The projector of this model was repaired by projclean {__version__}: method {result.method}, "
        f"{result.chosen} (suspect `{_name(result.model)}`, base `{_name(result.base)}`, "
        f"{_without_folders(result.images)}, "
        f"seed {result.seed}). The repaired projector {told}. "
        f"Everything else was copied unchanged.\n{guard}"
    )
