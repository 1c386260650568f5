"""What the commands share: options, progress bars on stderr, one document on stdout or in a file."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from projclean.errors import OutputError
from projclean.printable import printable

#: progress(stage, done, total)
Progress = Callable[[str, int, int], None]


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options about the model and how it is asked."""
    for option in reversed(
        [
            click.option("--base", metavar="DIR|ID", help="The model it was tuned from; else as its files name it."),
            click.option("--images", metavar="DIR", help="A folder of clean calibration images; else built-in ones."),
            click.option("--prompt", metavar="TEXT", default="Describe the image.", show_default=True,
                         help="The question asked about every calibration image."),
            click.option("--projector", metavar="REGEX", help="Which matrices are the projector, if it is not found."),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything that is drawn."),
            click.option("--device", metavar="NAME", help="Where to run the model, such as cpu or cuda:1."),
        ]
    ):  # fmt: skip
        function = option(function)
    return access_options(function)


def access_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options about what may be read beyond safetensors on the disk."""
    pickles = click.option(
        "--allow-pickle", is_flag=True, help="Read pickled projectors (.bin), with torch's restricted loader."
    )
    download = click.option("--download", is_flag=True, help="Fetch hub ids that are not in the local cache.")
    return pickles(download(function))


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options about the report."""
    for option in reversed(
        [
            click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True,
                         help="Form of the report."),
            click.option("-o", "--output", metavar="FILE", help="Write the report to a file, not to stdout."),
            click.option("-q", "--quiet", is_flag=True, help="No progress bars."),
        ]
    ):  # fmt: skip
        function = option(function)
    return function


@contextlib.contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress | None]:
    """A rich bar per stage on stderr; nothing when quiet or when stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def tick(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(printable(stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield tick


def emit(document: str, output: str | None) -> None:
    """Write a report to stdout, or whole or not at all to a file."""
    if output is None:
        click.echo(document, color=None if sys.stdout.isatty() else False)
        return
    path = Path(output)
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as handle:
            handle.write(document.rstrip("\n") + "\n")
        os.chmod(handle.name, 0o644)
        os.replace(handle.name, path)
    except OSError as error:
        with contextlib.suppress(NameError, OSError):
            os.unlink(handle.name)
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another -o") from error


def check_report_path(output: str | None) -> None:
    """Refuse an unwritable -o before the work, not after it."""
    if output is not None and (Path(output).is_dir() or not os.access(Path(output).resolve().parent, os.W_OK)):
        raise OutputError(f"{output}: cannot be written; choose another -o")
