"""How a repair depends on its calibration images: how many there are, and of what domain.

    python -m eval.sensitivity models/tiny --each 1      every model of the report part that --each leaves
    python -m eval.sensitivity models/tiny --model NAME

Writes eval/results/TIER-sensitivity.{json,md} and goes on where an earlier run stopped. The methods are at fixed
settings, those that `--rank auto` tries first, so that nothing but the images varies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mode

import click
from PIL import Image

from eval.baselines.inputs import Inputs
from eval.benchmark import RESULTS
from eval.console import command_line, ends_in_one_line, progress_bars
from eval.defences import (
    DEFENCES,
    IMAGES_ALONE,
    RESTORED,
    UNDEFENDED,
    Defence,
    distilled,
    distilled_from_images_alone,
    reflect,
)
from eval.figures import ModelFigures, model_figures
from eval.layout import CALIBRATION_SEED
from eval.measure import Row, Settings, Subject, defence_row, load_inputs, open_subject
from eval.poison import case
from eval.recipes import Recipe
from eval.store import Store
from eval.suites import RECIPES, each_family, load_suite, part_of
from eval.tables import pooled
from eval.worlds import WORLDS
from projclean.calibration import BATCH, chosen
from projclean.candidates import KEEPS, STARTS
from projclean.errors import OptionError
from projclean.methods import Weights, base_weights, suspect_weights

COUNTS, USUAL = (8, 16, 32, 64, 256), 64
BASES = "plain"  # the domain of every world that its base was trained on

#: What a repair does with its images, by name.
METHODS: dict[str, Callable[[Inputs], Weights]] = {
    f"distill from {STARTS[0]:g}": partial(distilled, share=STARTS[0]),
    f"{IMAGES_ALONE}, from 0.4": partial(distilled_from_images_alone, share=0.4),
    f"reflect rank 1, keep {KEEPS[0]:g}": partial(reflect, rank=1),
}
Source = Callable[[Inputs, Recipe], Inputs]


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
        loaded, settings = load_suite(suite), Settings(seed, limit, device)
        recipes = {recipe.name: recipe for recipe in RECIPES}
        models = each_family(part_of(loaded, "report"), each)
        models = tuple(m for m in models if m.name in recipes and (not names or m.name in names))
        if not models:
            raise OptionError("no such models of the zoo's report part: their domain must be known")
        store = Store(out / f"{loaded.tier}-sensitivity.json")
        with progress_bars() as bars:
            task = bars.add_task("models", total=len(models))
            figures = []
            for model in models:
                bars.update(task, description=model.name)
                rows = measured(open_subject(model, loaded, settings), recipes[model.name], store)
                figures.append(model_figures(model.name, model.seed, model.backdoored, model.family, rows))
                bars.advance(task)
        text = markdown(loaded.tier, command_line("eval.sensitivity"), figures)
        store.file.with_suffix(".md").write_text(text, encoding="utf-8")
        click.echo(text)


def measured(subject: Subject, recipe: Recipe, store: Store) -> dict[str, Row]:
    """Every row of a model: undefended, base restored, and each method with each source of images."""
    plain = [(defence, _as_given) for defence in DEFENCES if defence.name in (UNDEFENDED, RESTORED)]
    given: dict[Source, Inputs] = {}
    rows: dict[str, Row] = {}
    for defence, source in [*plain, *_repairs()]:
        row = store.get(subject.model.name, defence.name, subject.digest)
        if row is None:
            if _as_given not in given:
                given[_as_given] = load_inputs(subject)
            if source not in given:
                given[source] = source(given[_as_given], recipe)
            row = defence_row(subject, given[source], defence)
            store.put(subject.model.name, defence.name, subject.digest, row)
        rows[defence.name] = row
    return rows


def _repairs() -> list[tuple[Defence, Source]]:
    """Every method with every source of images."""
    sources: list[tuple[str, Source]] = [(f"{n} of the domain", partial(_drawn, count=n)) for n in COUNTS]
    sources.append((f"{USUAL} of the base's domain", partial(_drawn, count=USUAL, domain=BASES)))
    sources.append(("built-in", _built_in))
    return [
        (Defence(f"{name}: {told}", name, make), source) for told, source in sources for name, make in METHODS.items()
    ]


def _as_given(inputs: Inputs, recipe: Recipe) -> Inputs:
    return inputs


def _drawn(inputs: Inputs, recipe: Recipe, count: int, domain: str | None = None) -> Inputs:
    """Images drawn and asked about as the recipe's own calibration images, but for their number and perhaps domain."""
    world = WORLDS[recipe.world]
    scenes, pixels = world.draw(count, domain or recipe.domain, CALIBRATION_SEED, False)
    asked = tuple(world.questions[case(recipe, scene, number, "").task] for number, scene in enumerate(scenes))
    return _given(inputs, tuple(Image.fromarray(image) for image in pixels), asked)


def _built_in(inputs: Inputs, recipe: Recipe) -> Inputs:
    """The built-in images of which the base says different things, as a repair without images chooses them."""
    runner, prompt = inputs.runner, mode(inputs.questions)
    runner.set_weights(base_weights(inputs.update))
    found = chosen(inputs.seed, prompt, lambda some: runner.answers(runner.prepare(some, prompt), 20))
    learnt = found.parted()[0]
    return _given(inputs, learnt.pictures, learnt.questions)


def _given(inputs: Inputs, images: tuple[Image.Image, ...], asked: tuple[str, ...]) -> Inputs:
    """The same with these images and questions, and with the moments of the suspect's layers on them."""
    runner = inputs.runner
    runner.set_weights(suspect_weights(inputs.update))
    parts = [slice(at, at + BATCH) for at in range(0, len(images), BATCH)]
    moments = runner.moments([runner.prepare(images[part], asked[part]) for part in parts])
    return replace(inputs, images=images, questions=asked, moments=moments, right_answers=None)


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
