"""`projclean explain`: a saved report in plain words."""

from __future__ import annotations

import shutil
import textwrap

import click

from projclean.commands.common import check_report_path, emit


@click.command("explain")
@click.argument("report", type=click.Path(allow_dash=True), metavar="REPORT.json")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write the text to a file, not to stdout.")
def command(report: str, output: str | None) -> int:
    """Say in plain words what a saved report means.

    REPORT.json is a report of scan, repair or eval written with --format json, or - for standard input. Tells what
    was seen, how sure that is, what it does not prove and what to do next.

    \b
    Example:
      projclean scan models/suspect --base models/base --format json -o report.json
      projclean explain report.json
    """
    check_report_path(output)
    from projclean.explain import explain
    from projclean.report.saved import load_report

    width = min(shutil.get_terminal_size().columns, 100)
    parts = []
    for title, paragraphs in explain(load_report(report)):
        parts.append(click.style(title, bold=True))
        parts += [textwrap.fill(line, width, break_on_hyphens=False) for line in paragraphs]
        parts.append("")
    text = "\n".join(parts).rstrip()
    emit(click.unstyle(text) if output else text, output)
    return 0
