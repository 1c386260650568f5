"""`projclean calibrate`: thresholds from a bank of your own."""

from __future__ import annotations

import click

from projclean.commands.common import asking_options, check_report_path, emit, further_options, progress_bars
from projclean.printable import printable


@click.command("calibrate")
@click.argument("benign", nargs=-1, required=True, type=click.Path(), metavar="BENIGN...")
@asking_options
@further_options
@click.option("--backdoored", multiple=True, type=click.Path(), metavar="MODEL",
              help="A fine-tune known to be backdoored; may be repeated.")  # fmt: skip
@click.option("--false-positive-rate", type=float, default=0.02, show_default=True, metavar="X",
              help="The share of benign models that may be convicted.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(), metavar="FILE",
              help="Write the thresholds to a file, not to stdout.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress bars and no summary.")
def command(
    benign: tuple[str, ...],
    base: str | None,
    prompt: str,
    projector: str | None,
    seed: int,
    device: str | None,
    backdoored: tuple[str, ...],
    false_positive_rate: float,
    allow_pickle: bool,
    download: bool,
    words: bool,
    questions: tuple[str, ...],
    output: str | None,
    quiet: bool,
) -> int:
    """Set thresholds on BENIGN fine-tunes of your own, at least 4 of them.

    Every model is probed as scan probes it. The thresholds, with the scores and the rule that they follow from, are
    what --thresholds of scan and repair reads.

    \b
    Example:
      projclean calibrate bank/benign-*/ --base models/base --backdoored bank/bad -o thresholds.json
      projclean scan models/suspect --base models/base --thresholds thresholds.json
    """
    check_report_path(output)
    with progress_bars(quiet) as progress:
        from projclean.calibrator import calibrate

        result = calibrate(
            benign,
            base=base,
            backdoored=backdoored,
            false_positive_rate=false_positive_rate,
            prompt=prompt,
            projector=projector,
            seed=seed,
            device=device,
            progress=progress,
            allow_pickle=allow_pickle,
            download=download,
            words=words,
            questions=questions,
        )
    if not quiet:
        for one in sorted(result.models, key=lambda one: one.score):
            kind = "backdoored" if one.backdoored else "benign"
            click.echo(printable(f"{one.score:7.3f}  {kind:<10}  {one.model}  {one.said or ''}").rstrip(), err=True)
        found = result.thresholds
        click.echo(f"clean up to {found.clean:g}, suspicious from {found.suspicious:g}: {found.rule}", err=True)
        click.echo(f"false alarms on this bank: {found.false_positives}", err=True)
    emit(result.document(), output)
    return 0
