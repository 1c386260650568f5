"""`projclean scan`: look for a backdoor in a fine-tuned projector."""

from __future__ import annotations

import click

from projclean.commands.common import check_report_path, emit, model_options, output_options, progress_bars


@click.command("scan")
@click.argument("model", type=click.Path())
@model_options
@click.option("--no-probe", is_flag=True, help="Look at the weights only; never enough for a verdict of clean.")
@click.option("--ignore-elsewhere", is_flag=True, help="Judge the projector alone, whatever changed outside it.")
@click.option("--fail-on", type=click.Choice(["inconclusive", "suspicious"]), default="inconclusive", show_default=True,
              help="The mildest verdict that exits other than 0.")  # fmt: skip
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever the verdict.")
@output_options
def command(
    model: str,
    base: str | None,
    images: str | None,
    prompt: str,
    projector: str | None,
    seed: int,
    device: str | None,
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
    """Look for a backdoor in the projector of MODEL.

    MODEL is a model directory, a PEFT adapter or a bare projector to lay over the base, or a hub id
    org/name[@revision]. Exits 0 when clean, 1 when suspicious, 2 when inconclusive or on an error.

    \b
    Example:
      projclean scan models/suspect --base models/base --images my-clean-images/
    """
    check_report_path(output, form)
    with progress_bars(quiet) as progress:
        from projclean.scanner import scan

        result = scan(
            model,
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
        )
    from projclean.report import render

    state = result.verdict.state
    passed = exit_zero or state == "clean" or (state == "inconclusive" and fail_on == "suspicious")
    code = 0 if passed else 1 if state == "suspicious" else 2
    emit(render(result, form, plain=output is not None, exit_code=code), output)
    return code
