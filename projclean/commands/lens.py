"""`projclean lens`: what the update does and how, in figures and pictures."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from projclean.commands.common import check_report_path, emit, model_options, progress_bars
from projclean.errors import OptionError
from projclean.printable import printable_fields

FORMATS = {"text": "lens_text", "json": "json", "html": "lens_html"}


@click.command("lens")
@click.argument("model")
@model_options
@click.option("--eval", "evalset", metavar="EVAL.toml", help="Triggered images, and what the rank curves measure.")
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="MODEL",
    help="A benign fine-tune of the same base, to compare with; may be given again.",
)
@click.option("--ranks", metavar="K,K,…", help="Ranks of the rank curves, such as 1,4,16; else 1,2,4,8,16,32.")
@click.option("--items", type=int, default=64, show_default=True, help="Items of each set for the rank curves.")
@click.option("--no-grid", is_flag=True, help="Rank curves without the grid over pairs of ranks.")
@click.option("--no-curves", is_flag=True, help="Leave out the rank curves, which take most of the time.")
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), help="Form of the report; else as -o ends, else text."
)
@click.option("-o", "--output", metavar="FILE", help="Write the report to a file, not to stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def command(
    model: str,
    base: str | None,
    images: str | None,
    prompt: str,
    projector: str | None,
    seed: int,
    device: str | None,
    allow_pickle: bool,
    download: bool,
    evalset: str | None,
    references: tuple[str, ...],
    ranks: str | None,
    items: int,
    no_grid: bool,
    no_curves: bool,
    form: str | None,
    output: str | None,
    quiet: bool,
) -> int:
    """Show what the projector's update of MODEL does: spectra, rank curves, hidden neurons, the shift of image
    tokens and the words it points at, each beside benign references.

    Clean images are those of --images, else the evaluation set's, else built-in ones. The lens measures and does not
    judge; for a verdict use scan. Exits 0, or 2 on an error.

    \b
    Example:
      projclean lens models/suspect --base models/base --eval models/suspect/EVAL.toml \\
          --reference models/benign -o lens.html
    """  # fmt: skip
    check_report_path(output)
    form = form or _form_of(output)
    if form == "html":
        from projclean.report.svg import require_matplotlib

        require_matplotlib()
    with progress_bars(quiet) as progress:
        from projclean.lens.analysis import lens_report

        result = lens_report(
            model,
            base=base,
            images=images,
            evalset=evalset,
            references=references,
            ranks=parse_ranks(ranks),
            curves=not no_curves,
            grid=not no_grid,
            items=items,
            prompt=prompt,
            projector=projector,
            seed=seed,
            device=device,
            progress=progress,
            allow_pickle=allow_pickle,
            download=download,
        )
    report = import_module(f"projclean.report.{FORMATS[form]}")
    shown = result if form == "json" else printable_fields(result)  # JSON keeps strings, in escapes
    emit(report.render(shown, plain=output is not None), output)
    return 0


def parse_ranks(text: str | None) -> list[int] | None:
    """The value of --ranks: whole numbers between commas. Raises OptionError."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(f"--ranks {text}: must be whole numbers between commas, such as 1,4,16") from error


def _form_of(output: str | None) -> str:
    ending = Path(output or "").suffix.lower().removeprefix(".")
    return {"htm": "html"}.get(ending, ending if ending in FORMATS else "text")
