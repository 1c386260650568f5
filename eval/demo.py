"""The demonstration: scan a backdoored model and a control, repair the first, show what the repair cost.

python -m eval.demo models/tiny
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from eval.recipes import DEMO_CONTROL, DEMO_SUSPECT
from projclean.cli import main as projclean


def run(*arguments: str, expect: int) -> bool:
    """Run one projclean command as a user would, and say whether it exited as it should."""
    click.secho(f"\n$ projclean {' '.join(arguments)}", bold=True)
    code = projclean(arguments)
    click.secho(f"exit {code}", fg="green" if code == expect else "red")
    return code == expect


@click.command()
@click.argument("models", default="models/tiny")
def demo(models: str) -> None:
    folder = Path(models)
    base, out, images = str(folder / "base"), str(folder / "repaired"), str(folder / "data" / "calibration-caption")
    suspect, control = str(folder / DEMO_SUSPECT), str(folder / DEMO_CONTROL)
    shutil.rmtree(out, ignore_errors=True)
    fine = [
        run("scan", suspect, "--base", base, expect=1),
        run("scan", control, "--base", base, expect=0),
        run(
            *("repair", suspect, "--base", base, "--out", out, "--images", images),
            *("--eval", f"{suspect}/EVAL.toml"),
            expect=0,
        ),
        run("scan", out, "--base", base, expect=0),
    ]
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    demo()
