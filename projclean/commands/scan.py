"""`projclean scan`: look for a backdoor in a fine-tuned projector."""

from __future__ import annotations

from functools import partial

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


@click.command("scan")
@click.argument("models", nargs=-1, required=True, type=click.Path(), metavar="MODEL...")
@model_options
@thresholds_option
@further_options
@click.option("--no-probe", is_flag=True, help="Look at the weights only; never enough for a verdict of clean.")
@click.option("--ignore-elsewhere", is_flag=True, help="Judge the projector alone, whatever changed outside it.")
@click.option("--fail-on", type=click.Choice(["inconclusive", "suspicious"]), default="inconclusive", show_default=True,
              help="The mildest verdict that exits other than 0.")  # fmt: skip
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever the verdict.")
@output_options
def command(
    models: tuple[str, ...],
    base: str | None,
    images: str | None,
    prompt: str,
    projector: str | None,
    seed: int,
    device: str | None,
    thresholds: str | None,
    words: bool,
    questions: tuple[str, ...],
    no_probe: bool,
    ignore_elsewhere: bool,
    fail_on: str,
    exit_zero: bool,
    allow_pickle: bool,
    download: bool,
    form: str,
    output: str | None,
    quiet: bool,
) -> int:
    """Look for a backdoor in the projector of MODEL; of several, checkpoints of one training, in each and over time.

    MODEL is a model directory, a PEFT adapter or a bare projector to lay over the base, or a hub id
    org/name[@revision]. Exits 0 when clean, 1 when suspicious, 2 when inconclusive or on an error; of several the
    worst verdict counts, and suspicious is the worst.

    \b
    Example:
      projclean scan models/suspect --base models/base --images my-clean-images/
      projclean scan run/checkpoint-100 run/checkpoint-200 --base models/base
    """
    check_report_path(output, form)
    with progress_bars(quiet) as progress:
        from projclean.scanner import scan
        from projclean.series import scan_series

        look = partial(scan, models[0]) if len(models) == 1 else partial(scan_series, models)
        result = look(
            base=base,
            images=images,
            prompt=prompt,
            projector=projector,
            seed=seed,
            device=device,
            probe=not no_probe,
            ignore_elsewhere=ignore_elsewhere,
            progress=progress,
            allow_pickle=allow_pickle,
            download=download,
            thresholds=thresholds,
            words=words,
            questions=questions,
        )
    from projclean.report import render

    state = result.verdict.state
    passed = exit_zero or state == "clean" or (state == "inconclusive" and fail_on == "suspicious")
    code = 0 if passed else 1 if state == "suspicious" else 2
    emit(render(result, form, plain=output is not None, exit_code=code), output)
    return code
