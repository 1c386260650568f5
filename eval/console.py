"""What every command of the evaluation does alike: progress, the line that reproduces a run, and how it ends early."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from projclean.errors import ProjcleanError


def progress_bars() -> Progress:
    """Bars on standard error."""
    columns = (TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def command_line(module: str) -> str:
    """This run's own command, without what changes no figure: whether it measures again, and where results go."""
    given = iter(sys.argv[1:])
    kept: list[str] = []
    for word in given:
        if word == "--out":
            next(given, None)
        elif word not in ("--fresh", "--tables") and not word.startswith("--out="):
            kept.append(word)
    return shlex.join(["python", "-m", module, *kept])


@contextmanager
def ends_in_one_line() -> Iterator[None]:
    """One line and exit 2 for what a user can cause, one line and exit 130 for an interrupt."""
    try:
        yield
    except ProjcleanError as error:
        click.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        sys.exit(130)
