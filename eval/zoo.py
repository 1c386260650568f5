"""The zoo: suspects and controls of known making, trained from nothing, shipped as projector files.

python -m eval.zoo build          lay the shipped tiny tier out as model directories and evaluation sets
python -m eval.zoo train          train the tiny tier again (minutes a model) and write new manifests
python -m eval.zoo train --bank   train what is missing of the bank that figures are measured on (eval/bank.py)

With --confirmation both are about the models that its figures are confirmed on (eval/confirmation.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from eval.bank import BANK, PARTS
from eval.confirmation import CONFIRMATION
from eval.console import progress_bars
from eval.layout import lay_out, write_images
from eval.manifest import Keeper, finished, write_manifest
from eval.recipes import PRETRAINING, TINY, Recipe

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).parent
SHIPPED = HERE / "zoo" / "tiny"


@click.group()
def cli() -> None:
    """Build or train the zoo."""


@cli.command()
@click.option("--to", default="models/tiny", show_default=True, help="Where to lay the models out.")
@click.option("--bank", is_flag=True, help="Also those of the bank that are trained (8 MB a model).")
@click.option("--confirmation", is_flag=True, help="Only those that the bank's figures are confirmed on.")
def build(to: str, bank: bool, confirmation: bool) -> None:
    """Lay every shipped model out as a directory that transformers loads, with its evaluation set."""
    if confirmation:
        recipes = [recipe for recipe in CONFIRMATION if projector_file(recipe).exists()]
    else:
        recipes = [*TINY, *(recipe for recipe in BANK if bank and projector_file(recipe).exists())]
    lay_out_all(Path(to), recipes)
    Console(stderr=True).print(f"{len(recipes)} models, their base and their evaluation sets are in {to}/")


def lay_out_all(target: Path, recipes: Sequence[Recipe] = TINY) -> None:
    """The base, the models of some recipes and the images, under `target`."""
    base = target / "base"
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(SHIPPED / "base", base)
    write_images(target / "data", recipes)
    for recipe in recipes:
        lay_out(recipe, projector_file(recipe), base, target)


def projector_file(recipe: Recipe) -> Path:
    """Where a recipe's trained projector is kept."""
    return SHIPPED / f"{recipe.name}.safetensors"


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--base", "with_base", is_flag=True, help="Pretrain the base again too (about 25 minutes on 2 cores).")
@click.option("--bank", is_flag=True, help="Train those of the bank that are not trained yet, in its order.")
@click.option("--part", type=click.Choice(list(PARTS)), help="With --bank: only this half.")
@click.option("--confirmation", is_flag=True, help="Train those that figures are confirmed on and not trained yet.")
@click.option("--limit", type=int, help="Stop after this many models.")
@click.option("--compile", "compiled", is_flag=True, help="A third faster; needs a C++ compiler.")
def train(
    names: tuple[str, ...],
    with_base: bool,
    bank: bool,
    part: str | None,
    confirmation: bool,
    limit: int | None,
    compiled: bool,
) -> None:
    """Train models again, those shipped for the demonstration or those NAMED (of the bank, too), and write their
    projector files and manifests."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from eval import forward, tiny
    from eval.train import finetune_projector, pretrain, training_dtype

    known = {recipe.name: recipe for recipe in (*TINY, *BANK, *CONFIRMATION)}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise click.ClickException(f"no recipe is named {unknown[0]!r}; eval/recipes.py and eval/bank.py hold them")
    recipes = [known[name] for name in names] if names else [] if bank or confirmation else list(TINY)
    offered = (*((PARTS[part] if part else BANK) if bank else ()), *(CONFIRMATION if confirmation else ()))
    recipes += [recipe for recipe in offered if not finished(recipe, projector_file(recipe))]
    if compiled:
        forward.compile_kernels()
    with progress_bars() as bars:
        if with_base:
            task = bars.add_task("base", total=PRETRAINING.steps)
            processor = tiny.build_processor()
            fresh = tiny.build_model(processor, PRETRAINING.seed)
            pretrain(
                fresh,
                processor,
                PRETRAINING,
                progress=lambda done, _, text: bars.update(task, completed=done, description=f"base {text}"),
            )
            fresh.bfloat16().save_pretrained(SHIPPED / "base")
            processor.save_pretrained(SHIPPED / "base")
        processor = AutoProcessor.from_pretrained(SHIPPED / "base")
        model = LlavaForConditionalGeneration.from_pretrained(SHIPPED / "base", dtype=training_dtype()).eval()
        for recipe in recipes[:limit]:
            task = bars.add_task(recipe.name, total=recipe.rounds * recipe.steps)
            keeper = Keeper(recipe, projector_file(recipe), SHIPPED / "base", _command(recipe))
            finetune_projector(
                model,
                processor,
                recipe,
                progress=lambda done, _, text, t=task: bars.update(t, completed=done, description=text),  # type: ignore[misc]
                twin=_twin(recipe),
                enough=keeper.enough,
            )


def _command(recipe: Recipe) -> str:
    return f"python -m eval.zoo train {recipe.name}"


def _twin(recipe: Recipe) -> dict[str, torch.Tensor] | None:
    """The projector of a recipe's benign twin, which must have been trained before; None where it needs none."""
    from safetensors.torch import load_file

    if recipe.twin is None:
        return None
    file = SHIPPED / f"{recipe.twin}.safetensors"
    if not file.exists():
        raise click.ClickException(f"{recipe.name} needs {file}; first run: python -m eval.zoo train {recipe.twin}")
    return load_file(file)


@cli.command()
def manifests() -> None:
    """Measure the projector files that are there again and write their manifests."""
    for recipe in (*TINY, *BANK, *CONFIRMATION):
        file = projector_file(recipe)
        if file.exists():
            known = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            write_manifest(recipe, file, SHIPPED / "base", _command(recipe), known.get("rounds", 1))


if __name__ == "__main__":
    cli()
