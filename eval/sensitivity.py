"""How a repair depends on its calibration images: how many there are, and of what domain.

    python -m eval.sensitivity models/tiny --each 1      every model of the report part that --each leaves
    python -m eval.sensitivity models/tiny --model NAME

Writes eval/results/TIER-sensitivity.{json,md} and goes on where an earlier run stopped. The methods are at fixed
settings, those that `--rank auto` tries first, so that nothing but the images varies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from eval.baselines.inputs import Inputs
from eval.benchmark import RESULTS
from eval.console import command_line, ends_in_one_line
from eval.defences import IMAGES_ALONE, Defence, distilled, distilled_from_images_alone, reflect
from eval.figures import ModelFigures
from eval.measure import Settings
from eval.other_images import Plan, Source, built_in, drawn, run
from eval.store import Store
from eval.suites import load_suite
from eval.tables import pooled
from projclean.candidates import KEEPS, STARTS
from projclean.methods import Weights

COUNTS, USUAL = (8, 16, 32, 64, 256), 64
BASES = "plain"  # the domain of every world that its base was trained on

#: What a repair does with its images, by name.
METHODS: dict[str, Callable[[Inputs], Weights]] = {
    f"distill from {STARTS[0]:g}": partial(distilled, share=STARTS[0]),
    f"{IMAGES_ALONE}, from 0.4": partial(distilled_from_images_alone, share=0.4),
    f"reflect rank 1, keep {KEEPS[0]:g}": partial(reflect, rank=1),
}


@click.command()
@click.argument("suite", default="models/tiny", type=click.Path(path_type=Path))
@click.option("--each", default=1, show_default=True, help="At most this many models of every family.")
@click.option("--model", "names", multiple=True, metavar="NAME", help="Only this model; may be repeated.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many items of every set.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything that a repair draws.")
@click.option("--device", metavar="NAME", help="Where to run the models.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Where results go.")
def sensitivity(
    suite: Path, each: int, names: tuple[str, ...], limit: int | None, seed: int, device: str | None, out: Path
) -> None:
    """Measure the repair of SUITE's models with other calibration images."""
    with ends_in_one_line():
        loaded = load_suite(suite)
        store = Store(out / f"{loaded.tier}-sensitivity.json")
        figures = run(loaded, _plan(), store, Settings(seed, limit, device), each, names)
        text = markdown(loaded.tier, command_line("eval.sensitivity"), figures)
        store.file.with_suffix(".md").write_text(text, encoding="utf-8")
        click.echo(text)


def _plan() -> Plan:
    """Every method with every source of images."""
    sources: list[tuple[str, Source]] = [(f"{n} of the domain", partial(drawn, count=n)) for n in COUNTS]
    sources.append((f"{USUAL} of the base's domain", partial(drawn, count=USUAL, domain=BASES)))
    sources.append(("built-in", built_in))
    return [
        (Defence(f"{name}: {told}", name, make), source) for told, source in sources for name, make in METHODS.items()
    ]


def markdown(tier: str, command: str, models: Sequence[ModelFigures]) -> str:
    """The page: means over models, a row for every method and source of images."""
    weak = [model.name for model in models if not model.counts]
    lines = [
        f"# {tier}: repair with other calibration images",
        "",
        f"`{command}`. Methods at fixed settings. *Of the domain* are images drawn as the fine-tune's own were; *of "
        "the base's domain* are such as the base was pretrained on, which the fine-tune was not. No probe is run, so "
        "none of the images is left out for what the suspect says of it, as `--rank auto` would.",
        "",
        *([f"Left out, since the attack is below ASR 0.9 undefended: {', '.join(weak)}.", ""] if weak else []),
        *pooled(models),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sensitivity()
