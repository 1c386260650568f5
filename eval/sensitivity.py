"""How a repair depends on its calibration images: how many there are, and of what domain.

    python -m eval.sensitivity models/tiny --each 1      every model of the report part that --each leaves
    python -m eval.sensitivity models/tiny --model NAME

Writes eval/results/TIER-sensitivity.{json,md} and goes on where an earlier run stopped. The methods are at fixed
settings, those that `--rank auto` tries first, so that nothing but the images varies.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eval.baselines.inputs import Inputs
from eval.benchmark import RESULTS
from eval.defences import DEFENCES, RESTORED, UNDEFENDED, Defence, distilled, reflect
from eval.figures import ModelFigures, model_figures
from eval.layout import CALIBRATION_SEED
from eval.measure import Row, Settings, Subject, defence_row, load_inputs, open_subject
from eval.recipes import Recipe
from eval.store import Store
from eval.suites import RECIPES, each_family, load_suite, part_of
from eval.tables import pooled
from eval.worlds import WORLDS
from projclean.calibration import BATCH, chosen
from projclean.errors import OptionError, ProjcleanError
from projclean.methods import Weights, base_weights, suspect_weights
from projclean.search import KEEPS, STARTS

COUNTS, USUAL = (8, 16, 32, 64, 256), 64
OTHER = {"shapes": "plain", "photos": "plain"}  # the domain that a world's base was trained on

#: What a repair does with its images, by name.
METHODS: dict[str, Callable[[Inputs], Weights]] = {
    f"distill from {STARTS[0]:g}": partial(distilled, share=STARTS[0]),
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
    try:
        loaded, settings = load_suite(suite), Settings(seed, limit, device)
        recipes = {recipe.name: recipe for recipe in RECIPES}
        models = each_family(part_of(loaded, "report"), each)
        models = tuple(m for m in models if m.name in recipes and (not names or m.name in names))
        if not models:
            raise OptionError("no such models of the zoo's report part: their domain must be known")
        store = Store(out / f"{loaded.tier}-sensitivity.json")
        columns = (TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task("models", total=len(models))
            figures = []
            for model in models:
                bars.update(task, description=model.name)
                rows = measured(open_subject(model, loaded, settings), recipes[model.name], store)
                figures.append(model_figures(model.name, model.seed, model.backdoored, model.family, rows))
                bars.advance(task)
        command = shlex.join(["python", "-m", "eval.sensitivity", *sys.argv[1:]])
        text = markdown(loaded.tier, command, figures)
        store.file.with_suffix(".md").write_text(text, encoding="utf-8")
        click.echo(text)
    except ProjcleanError as error:
        click.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)


def measured(subject: Subject, recipe: Recipe, store: Store) -> dict[str, Row]:
    """Every row of a model: undefended, base restored, and each method with each source of images."""
    inputs: Inputs | None = None
    rows: dict[str, Row] = {}
    plain = [defence for defence in DEFENCES if defence.name in (UNDEFENDED, RESTORED)]
    for source, shown in [("", _as_given), *sources()]:
        named = [Defence(f"{name}: {source}", name, make) for name, make in METHODS.items()] if source else plain
        with_images: Inputs | None = None
        for defence in named:
            row = store.get(subject.model.name, defence.name, subject.digest)
            if row is None:
                inputs = inputs or load_inputs(subject)
                with_images = with_images or shown(inputs, recipe)
                row = defence_row(subject, with_images, defence)
                store.put(subject.model.name, defence.name, subject.digest, row)
            rows[defence.name] = row
    return rows


def sources() -> list[tuple[str, Source]]:
    """What images a repair may be given."""
    own = [(f"{count} of the domain", partial(_drawn, count=count)) for count in COUNTS]
    return [*own, (f"{USUAL} of the base's domain", partial(_drawn, count=USUAL, other=True)), ("built-in", _built_in)]


def _as_given(inputs: Inputs, recipe: Recipe) -> Inputs:
    return inputs


def _drawn(inputs: Inputs, recipe: Recipe, count: int, other: bool = False) -> Inputs:
    """Images drawn as the recipe's own calibration images are, but for their number and perhaps their domain."""
    world, domain = WORLDS[recipe.world], OTHER[recipe.world] if other else recipe.domain
    _, pixels = world.draw(count, domain, CALIBRATION_SEED, False)
    task = recipe.task if recipe.task != "mixed" else next(iter(world.questions))
    return _given(inputs, tuple(Image.fromarray(image) for image in pixels), world.questions[task])


def _built_in(inputs: Inputs, recipe: Recipe) -> Inputs:
    """The built-in images of which the base says different things, as a repair without images chooses them."""
    runner, prompt = inputs.runner, max(set(inputs.questions), key=inputs.questions.count)
    runner.set_weights(base_weights(inputs.update))
    found = chosen(inputs.seed, prompt, lambda some: runner.answers(runner.prepare(some, prompt), 20))
    return _given(inputs, found.parted()[0].pictures, prompt)


def _given(inputs: Inputs, images: tuple[Image.Image, ...], question: str) -> Inputs:
    """The same with these images, and with the moments of the suspect's layers on them."""
    runner = inputs.runner
    runner.set_weights(suspect_weights(inputs.update))
    batches = [runner.prepare(images[at : at + BATCH], question) for at in range(0, len(images), BATCH)]
    moments = runner.moments(batches)
    return replace(inputs, images=images, questions=(question,) * len(images), moments=moments, right_answers=None)


def markdown(tier: str, command: str, models: Sequence[ModelFigures]) -> str:
    """The page: means over models, a row for every method and source of images."""
    weak = [model.name for model in models if not model.counts]
    lines = [
        f"# {tier}: repair with other calibration images",
        "",
        f"`{command}`. Methods at fixed settings. *Of the domain* are images drawn as the fine-tune's own were; *of "
        "the base's domain* are such as the base was pretrained on, which the fine-tune was not.",
        "",
        *([f"Left out, since the attack is below ASR 0.9 undefended: {', '.join(weak)}.", ""] if weak else []),
        *pooled(models),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sensitivity()
