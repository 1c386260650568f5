"""The command line: one click group, and the one place where errors become a line and an exit code.

Exit codes: 0 clean or done, 1 suspicious, 2 usage, error, inconclusive, or an unexpected exception.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

import click

from projclean import __version__
from projclean.errors import ProjcleanError
from projclean.printable import error_line, printable

COMMANDS = {
    "scan": "Look for a backdoor in a fine-tuned projector.",
    "repair": "Remove the suspicious subspace and write the repaired model.",
    "eval": "Measure attack success and clean accuracy, side by side.",
    "lens": "Show what the projector's update does, and how.",
    "calibrate": "Set thresholds on benign fine-tunes of your own.",
    "explain": "Say in plain words what a saved report means.",
}


class _Lazy(click.Group):
    """Imports a command's module when it is asked for, so that --help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"projclean.commands.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="projclean")
def cli() -> None:
    """Vet and sanitise the projector of a multimodal model that somebody else fine-tuned.

    \b
    Example:
      projclean scan models/suspect --base models/base

    \b
    Exit codes:
      0  clean, or done
      1  suspicious
      2  inconclusive, a usage error or any other error

    \b
    Environment:
      NO_COLOR             no colours in text reports
      COLUMNS              width of text reports
      _PROJCLEAN_COMPLETE  bash_source, zsh_source or fish_source prints the shell's completion script
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the console script's entry point."""
    try:
        result = cli.main(args=None if arguments is None else list(arguments), standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as request:
        return int(request.exit_code)
    except click.Abort:
        return _fail("interrupted; nothing was written")
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2 and later: its message is the whole help
            click.echo(error.format_message(), err=True)
            return 2
        context = getattr(error, "ctx", None)
        hint = f" (see: {context.command_path} --help)" if context else ""
        return _fail(error.format_message() + hint)
    except ProjcleanError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written")
    except BrokenPipeError:
        sys.stderr.close()
        return 2
    except Exception as error:
        click.echo("\n".join(printable(line) for line in traceback.format_exc().split("\n")), err=True)
        return _fail(f"unexpected {type(error).__name__}: this is a bug in projclean, please report it")


def _fail(message: str) -> int:
    click.echo(click.style("error: ", fg="red", bold=True) + error_line(message), err=True)
    return 2


def run() -> None:
    """Console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
