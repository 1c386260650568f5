"""The repairs that learn, and those that they are held against, with as many clean images as the papers have.

    python -m eval.thousand models/tiny

OrthoPurify's comparison (arXiv 2610.09941, appendix C.4) gives every defence 1,000 clean samples; a publisher has the
images of the fine-tune. Writes eval/results/TIER-thousand.{json,md} and goes on where an earlier run stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from eval.benchmark import RESULTS
from eval.console import command_line, ends_in_one_line
from eval.defences import DEFENCES, Defence, distilled
from eval.figures import ModelFigures
from eval.measure import Settings
from eval.other_images import Plan, as_given, drawn, run
from eval.store import Store
from eval.suites import load_suite
from eval.tables import pooled

IMAGES = 1000
#: Rows of the tables that learn from the images, or look at them, and need no labels; without Fine-Pruning, which
#: answers them all anew for every part that it prunes.
AGAIN = ("OrthoPurify, own answers", "clean fine-tuning, own answers", "relearning from the base, own answers")
METHODS = (
    *(defence for defence in DEFENCES if defence.name in AGAIN),
    Defence("projclean distill from 0", "projclean", partial(distilled, share=0.0, total=IMAGES)),
)


@click.command()
@click.argument("suite", default="models/tiny", type=click.Path(path_type=Path))
@click.option("--each", default=1, show_default=True, help="At most this many models of every family.")
@click.option("--model", "names", multiple=True, metavar="NAME", help="Only this model; may be repeated.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many items of every set.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything that a repair draws.")
@click.option("--device", metavar="NAME", help="Where to run the models.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Where results go.")
def thousand(
    suite: Path, each: int, names: tuple[str, ...], limit: int | None, seed: int, device: str | None, out: Path
) -> None:
    """Measure the repair of SUITE's models with a thousand clean images of their domain."""
    with ends_in_one_line():
        loaded = load_suite(suite)
        store = Store(out / f"{loaded.tier}-thousand.json")
        figures = run(loaded, _plan(), store, Settings(seed, limit, device), each, names)
        text = markdown(loaded.tier, command_line("eval.thousand"), figures)
        store.file.with_suffix(".md").write_text(text, encoding="utf-8")
        click.echo(text)


def _plan() -> Plan:
    source = partial(drawn, count=IMAGES)
    plain = [(defence, as_given) for defence in DEFENCES if defence.name == "never poisoned"]
    return [*plain, *((method, source) for method in METHODS)]


def markdown(tier: str, command: str, models: Sequence[ModelFigures]) -> str:
    """The page: means over models, a row for every method."""
    weak = [model.name for model in models if not model.counts]
    lines = [
        f"# {tier}: repair with {IMAGES:,} clean images",
        "",
        f"`{command}`. Images drawn and asked about as the fine-tune's own were, none of them among those that it was "
        "trained on or is measured on. *Own answers* are the suspect's: no label is used. No probe is run.",
        "",
        *([f"Left out, since the attack is below ASR 0.9 undefended: {', '.join(weak)}.", ""] if weak else []),
        *pooled(models),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    thousand()
