"""Repairs with other calibration images than those a model came with: where they come from, and the rows they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mode

import click
from PIL import Image

from eval import options
from eval.baselines.inputs import Inputs
from eval.console import command_line, ends_in_one_line, progress_bars
from eval.defences import DEFENCES, RESTORED, UNDEFENDED, Defence
from eval.figures import ModelFigures, model_figures
from eval.layout import CALIBRATION_SEED
from eval.measure import Row, Settings, Subject, defence_row, load_inputs, open_subject
from eval.poison import case, right_answer
from eval.recipes import Recipe
from eval.store import Store
from eval.suites import RECIPES, Suite, each_family, load_suite, part_of
from eval.tables import pooled
from eval.worlds import WORLDS
from projclean.calibration import BATCH, chosen
from projclean.errors import OptionError
from projclean.methods import base_weights, suspect_weights

Source = Callable[[Inputs, Recipe], Inputs]
#: Defences, each with the images that it is given.
Plan = Sequence[tuple[Defence, Source]]


def command(name: str, does: str, title: str, setting: str, plan: Callable[[], Plan]) -> click.Command:
    """A command that measures a plan and writes TIER-`name`.json, and beside it a page of means over models, with a
    title and what there is to say of the setting."""

    @click.command(name, help=does)
    @options.suite
    @click.option("--each", default=1, show_default=True, help="At most this many models of every family.")
    @options.names
    @options.limit
    @options.seed
    @options.device
    @options.out
    def measure(
        suite: Path, each: int, names: tuple[str, ...], limit: int | None, seed: int, device: str | None, out: Path
    ) -> None:
        with ends_in_one_line():
            loaded = load_suite(suite)
            store = Store(out / f"{loaded.tier}-{name}.json")
            models = run(loaded, plan(), store, Settings(seed, limit, device), each, names)
            weak = [model.name for model in models if not model.counts]
            left_out = [f"Left out, since the attack is below ASR 0.9 undefended: {', '.join(weak)}.", ""]
            lines = [
                f"# {loaded.tier}: {title}", "", f"`{command_line(f'eval.{name}')}`. {setting}", "",
                *(left_out if weak else []), *pooled(models),
            ]  # fmt: skip
            text = "\n".join(lines).rstrip() + "\n"
            store.file.with_suffix(".md").write_text(text, encoding="utf-8")
            click.echo(text)

    return measure


def run(
    suite: Suite, plan: Plan, store: Store, settings: Settings, each: int, names: Sequence[str]
) -> list[ModelFigures]:
    """The rows of a plan for the models of the suite's report part, of which the store keeps those that it has.

    At most `each` models of every family, and only those of `names`, if any. Raises OptionError where none is left.
    """
    recipes = {recipe.name: recipe for recipe in RECIPES}
    models = each_family(part_of(suite, "report"), each)
    models = tuple(m for m in models if m.name in recipes and (not names or m.name in names))
    if not models:
        raise OptionError("no such models of the zoo's report part: their domain must be known")
    figures = []
    with progress_bars() as bars:
        task = bars.add_task("models", total=len(models))
        for model in models:
            bars.update(task, description=model.name)
            rows = _measured(open_subject(model, suite, settings), recipes[model.name], store, plan)
            figures.append(model_figures(model.name, model.seed, model.backdoored, model.family, rows))
            bars.advance(task)
    return figures


def _measured(subject: Subject, recipe: Recipe, store: Store, plan: Plan) -> dict[str, Row]:
    """Every row of a model: undefended, base restored, and the plan's, of which some stand for others."""
    plain = [(defence, as_given) for defence in DEFENCES if defence.name in (UNDEFENDED, RESTORED)]
    given: dict[Source, Inputs] = {}
    rows: dict[str, Row] = {}
    for defence, source in [*plain, *plan]:
        same = rows.get(defence.instead(subject.model.name) or "")
        row = same or store.get(subject.model.name, defence.name, subject.digest)
        if row is None:
            if as_given not in given:
                given[as_given] = load_inputs(subject)
            if source not in given:
                given[source] = source(given[as_given], recipe)
            row = defence_row(subject, given[source], defence)
            store.put(subject.model.name, defence.name, subject.digest, row)
        rows[defence.name] = row
    return rows


def as_given(inputs: Inputs, recipe: Recipe) -> Inputs:
    """The images that the model came with."""
    return inputs


def drawn(inputs: Inputs, recipe: Recipe, count: int, domain: str | None = None, watched: bool = True) -> Inputs:
    """Images drawn, asked about and answered as the recipe's own calibration images, but for their number and perhaps
    domain. Where they are not `watched` the moments stay those of the images that the model came with."""
    world = WORLDS[recipe.world]
    scenes, pixels = world.draw(count, domain or recipe.domain, CALIBRATION_SEED, False)
    asked = tuple(world.questions[case(recipe, scene, number, "").task] for number, scene in enumerate(scenes))
    right = tuple(right_answer(recipe, scene, number) for number, scene in enumerate(scenes))
    images = tuple(Image.fromarray(image) for image in pixels)
    if not watched:
        return replace(inputs, images=images, questions=asked, right_answers=right)
    return _given(inputs, images, asked, right)


def built_in(inputs: Inputs, recipe: Recipe) -> Inputs:
    """The built-in images of which the base says different things, as a repair without images chooses them."""
    runner, prompt = inputs.runner, mode(inputs.questions)
    runner.set_weights(base_weights(inputs.update))
    found = chosen(inputs.seed, prompt, lambda some: runner.answers(runner.prepare(some, prompt), 20))
    learnt = found.parted()[0]
    return _given(inputs, learnt.pictures, learnt.questions, None)


def _given(
    inputs: Inputs, images: tuple[Image.Image, ...], asked: tuple[str, ...], right: tuple[str, ...] | None
) -> Inputs:
    """The same with these images, questions and answers, and with the moments of the suspect's layers on them."""
    runner = inputs.runner
    runner.set_weights(suspect_weights(inputs.update))
    parts = [slice(at, at + BATCH) for at in range(0, len(images), BATCH)]
    moments = runner.moments([runner.prepare(images[part], asked[part]) for part in parts])
    return replace(inputs, images=images, questions=asked, moments=moments, right_answers=right)
