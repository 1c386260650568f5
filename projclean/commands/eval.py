"""`projclean eval`: attack success, clean accuracy and robust accuracy, side by side."""

from __future__ import annotations

import click

from projclean.commands.common import access_options, check_report_path, emit, output_options, progress_bars


@click.command("eval")
@click.argument("models", nargs=-1, required=True, type=click.Path(), metavar="MODEL...")
@click.option("--eval", "evalset", type=click.Path(), required=True, metavar="EVAL.toml", help="The evaluation set.")
@click.option(
    "--base",
    type=click.Path(),
    metavar="DIR|ID",
    help="The base: listed first, and what gain retained is measured from.",
)
@click.option("--projector", metavar="REGEX", help="Which matrices are the projector, if it is not found.")
@click.option("--device", metavar="NAME", help="Where to run the models, such as cpu or cuda:1.")
@access_options
@output_options
def command(
    models: tuple[str, ...],
    evalset: str,
    base: str | None,
    projector: str | None,
    device: str | None,
    allow_pickle: bool,
    download: bool,
    form: str,
    output: str | None,
    quiet: bool,
) -> int:
    """Measure each MODEL on an evaluation set: clean accuracy (CA), attack success (ASR), robust accuracy (RA).

    With --base, gain retained says how much of the first MODEL's gain over the base each model keeps.

    \b
    Example:
      projclean eval models/suspect models/repaired --base models/base --eval models/suspect/EVAL.toml
    """
    check_report_path(output, form)
    with progress_bars(quiet) as progress:
        from projclean.evaluator import evaluate

        result = evaluate(models, evalset, base, projector, device, progress, allow_pickle, download)
    from projclean.report import render

    emit(render(result, form, plain=output is not None), output)
    return 0
