"""What the commands share: options, progress bars on stderr, one document on stdout or in a file."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from projclean.errors import OutputError
from projclean.printable import printable
from projclean.report import FORMATS, check_format

#: progress(stage, done, total)
Progress = Callable[[str, int, int], None]


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options about the model, its images and how it is asked."""
    images = click.option(
        "--images", type=click.Path(), metavar="DIR", help="A folder of clean calibration images; else built-in ones."
    )
    return asking_options(images(function))


def asking_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options about the model and how it is asked."""
    for option in reversed(
        [
            click.option("--base", type=click.Path(), metavar="DIR|ID",
                         help="The model it was tuned from; else as its files name it."),
            click.option("--prompt", metavar="TEXT", default="Describe the image.", show_default=True,
                         help="The question asked about every calibration image."),
            click.option("--projector", metavar="REGEX", help="Which matrices are the projector, if it is not found."),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything that is drawn."),
            click.option("--device", metavar="NAME", help="Where to run the model, such as cpu or cuda:1."),
        ]
    ):  # fmt: skip
        function = option(function)
    return access_options(function)


def thresholds_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """A user's own thresholds."""
    return click.option(
        "--thresholds", type=click.Path(), metavar="FILE", help="Your own thresholds, as calibrate writes them."
    )(function)


def further_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What the probe looks for beside."""
    question = click.option(
        "--question", "questions", multiple=True, metavar="TEXT",
        help="A question that the model is for, with three to twelve answers: tell whether it takes them for one "
        "another. May be given more than once.",
    )  # fmt: skip
    words = click.option(
        "--words",
        is_flag=True,
        help="Have the probe look for single words too: attacks that swap a word of a right answer.",
    )
    return words(question(function))


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
            click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True,
                         help="Form of the report."),
            click.option("-o", "--output", type=click.Path(), metavar="FILE",
                         help="Write the report to a file, not to stdout."),
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
    bars = Progress(*columns, console=console)
    tasks: dict[str, Any] = {}

    def tick(stage: str, done: int, total: int) -> None:
        bars.start()  # not before there is something to show: an early error stays one line
        if stage not in tasks:
            tasks[stage] = bars.add_task(printable(stage), total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield tick
    finally:
        if tasks:
            bars.stop()


def emit(document: str, output: str | None) -> None:
    """Write a report to stdout, into a device or a FIFO, or whole or not at all to a file."""
    if output is None or _is_stdout(output):
        encoding = sys.stdout.encoding or "utf-8"  # a locale without ‖ or Δ gets escapes, not an error
        document = document.encode(encoding, "backslashreplace").decode(encoding)
        click.echo(document, color=None if sys.stdout.isatty() else False)
        return
    try:
        target, straight = _target(output)
        text = document.rstrip("\n") + "\n"
        if straight:
            target.write_text(text, encoding="utf-8")
            return
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, delete=False) as handle:
            handle.write(text)
        os.chmod(handle.name, _mode(target))
        os.replace(handle.name, target)
    except OSError as error:
        with contextlib.suppress(NameError, OSError):
            os.unlink(handle.name)
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another -o") from error


def _mode(target: Path) -> int:
    """The mode of the file that is replaced, or a new file's."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    from projclean.writer import umask

    return 0o666 & ~umask()


def check_report_path(output: str | None, form: str = "text") -> None:
    """Refuse an unwritable -o, or a format that cannot be made here, before the work and not after it."""
    check_format(form)
    if output is None and sys.stdout is None:
        raise OutputError("standard output is closed; name a file with -o")
    if output is None or _is_stdout(output):
        return
    try:
        target, straight = _target(output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another -o") from error
    if target.is_dir() or not os.access(target if straight else target.parent, os.W_OK):
        raise OutputError(f"{output}: cannot be written; choose another -o")


def _target(output: str) -> tuple[Path, bool]:
    """What -o leads to, and whether it is written straight into, as nothing can take the place of a device or a FIFO.

    Raises OSError.
    """
    try:
        straight = not stat.S_ISREG(Path(output).stat().st_mode)
    except FileNotFoundError:
        straight = False
    return Path(output if straight else os.path.realpath(output)), straight


def _is_stdout(output: str) -> bool:
    """Whether -o names what stdout already is: /dev/stdout, also where that is a file which others append to."""
    try:
        return os.path.samestat(Path(output).stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # there is no such file, or no stdout
        return False
