"""`projclean repair`: remove the suspicious subspace and write the repaired model."""

from __future__ import annotations

import os

import click

from projclean.commands.common import (
    check_report_path,
    emit,
    further_options,
    model_options,
    output_options,
    progress_bars,
    thresholds_option,
)
from projclean.errors import OptionError, OutputError


@click.command("repair")
@click.argument("model", type=click.Path())
@click.option(
    "--out", type=click.Path(), required=True, metavar="DIR", help="Where to write the repaired model directory."
)
@model_options
@thresholds_option
@further_options
@click.option(
    "--rank",
    default="auto",
    show_default=True,
    metavar="K|auto",
    help="Directions to turn around or remove per layer; auto: the least removal at which the probe falls silent.",
)
@click.option(
    "--method",
    metavar="NAME",
    help="distill (the default), reflect (the default with --rank K), project, shrink, interpolate or clip.",
)
@click.option(
    "--strength",
    type=float,
    metavar="X",
    help="λ of shrink, the share of the update that reflect or interpolate keeps and distill starts from, or the "
    "percentile of clip.",
)
@click.option(
    "--lesson",
    type=int,
    metavar="N",
    help="How many images distill looks at, those of --images and then blends of them (256). More keep more of the "
    "fine-tune, and from --strength 0 leave less of an attack that wants ordinary answers. With reflect, which learns "
    "nothing otherwise, what it costs is learnt again from so many.",
)
@click.option(
    "--judged",
    is_flag=True,
    help="Have distill doubt what a model that learns from the images alone does: still less of such an attack comes "
    "back, and a little less of the fine-tune.",
)
@click.option(
    "--clip",
    type=float,
    metavar="P",
    help="Beside any method: a guard that cuts norms of image tokens at the percentile P of clean ones.",
)
@click.option(
    "--eval", "evalset", type=click.Path(), metavar="EVAL.toml", help="Measure before and after on this evaluation set."
)
@click.option("--dry-run", is_flag=True, help="Search and report, write nothing.")
@click.option("--force", is_flag=True, help="Replace DIR if it exists.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 even when the repaired model fails the probe.")
@output_options
def command(
    model: str,
    out: str,
    base: str | None,
    images: str | None,
    prompt: str,
    projector: str | None,
    seed: int,
    device: str | None,
    thresholds: str | None,
    words: bool,
    questions: tuple[str, ...],
    rank: str,
    method: str | None,
    strength: float | None,
    lesson: int | None,
    judged: bool,
    clip: float | None,
    evalset: str | None,
    dry_run: bool,
    force: bool,
    exit_zero: bool,
    allow_pickle: bool,
    download: bool,
    form: str,
    output: str | None,
    quiet: bool,
) -> int:
    """Remove the backdoor's subspace from the projector of MODEL and write the repaired model to DIR.

    Everything outside the projector is copied byte for byte; an adapter is written as an adapter. Exits 0 when the
    repaired model passes its own probe and no attack of --eval works on it, 1 when it still fails (the output is
    written and says so), 2 when that stays open or on an error.

    \b
    Example:
      projclean repair models/suspect --base models/base --out models/repaired --eval models/suspect/EVAL.toml
    """  # fmt: skip
    check_report_path(output, form)
    if output is not None and os.path.realpath(output) == os.path.realpath(out):
        raise OptionError("--out and -o name the same place; the model needs a directory, the report a file")
    with progress_bars(quiet) as progress:
        from projclean.repairer import parse_rank, repair

        result = repair(
            model,
            out,
            base=base,
            rank=parse_rank(rank),
            method=method,
            strength=strength,
            images=images,
            prompt=prompt,
            evalset=evalset,
            projector=projector,
            seed=seed,
            device=device,
            dry_run=dry_run,
            force=force,
            progress=progress,
            allow_pickle=allow_pickle,
            download=download,
            clip=clip,
            thresholds=thresholds,
            words=words,
            questions=questions,
            lesson=lesson,
            judged=judged,
        )
    state = result.verdict.state
    code = 0 if exit_zero or state == "clean" else 1 if state == "suspicious" else 2
    try:
        from projclean.report import render

        emit(render(result, form, plain=output is not None, exit_code=code), output)
    except KeyboardInterrupt as error:
        there = f"the model is at {result.out}, but no report" if result.out else "nothing"
        raise OutputError(f"interrupted; {there} was written") from error
    return code
