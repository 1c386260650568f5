"""What the evaluation's commands are given alike: a suite, which of its models, a device, where results go."""

from __future__ import annotations

from pathlib import Path

import click

RESULTS = Path(__file__).parent / "results"

suite = click.argument("suite", default="models/tiny", type=click.Path(path_type=Path))
names = click.option("--model", "names", multiple=True, metavar="NAME", help="Only this model; may be repeated.")
seed = click.option("--seed", default=0, show_default=True, help="Seed of everything that a defence draws.")
limit = click.option("--limit", type=click.IntRange(min=1), help="At most this many items of every set.")
device = click.option("--device", metavar="NAME", help="Where to run the models, such as cpu or cuda:1.")
out = click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Where results go.")
