"""The smol tier's command line.

python -m eval.smol build         lay the shipped tier out under models/smol: fetches the language model once
python -m eval.smol train         train what is missing of the tier: vision tower, the base's projector, every suspect

Training goes on where it was stopped. It needs CIFAR-10 (eval/photos.py says where) and is slow without an accelerator.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from eval.console import progress_bars
from eval.layout import lay_out, write_images
from eval.manifest import Keeper, finished
from eval.recipes import Recipe
from eval.smol.recipes import BASE, SMOL
from projclean.errors import EvalError, ProjcleanError

SHIPPED = Path(__file__).parent.parent / "zoo" / "smol"
TOWER = SHIPPED / "vision.safetensors"


@click.group()
def cli() -> None:
    """Build or train the smol tier."""


@cli.command()
@click.option("--to", default="models/smol", show_default=True, type=click.Path(path_type=Path))
def build(to: Path) -> None:
    """Lay out the base and every trained suspect as directories that transformers loads, with evaluation sets."""
    recipes = [recipe for recipe in SMOL if _file(recipe).exists()]
    base = _base(to)
    write_images(to / "data", recipes)
    for recipe in recipes:
        lay_out(recipe, _file(recipe), base, to)
    Console(stderr=True).print(f"{len(recipes)} models, their base and their evaluation sets are in {to}/")


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--to", default="models/smol", show_default=True, type=click.Path(path_type=Path))
@click.option("--device", help="Where to train; an accelerator when there is one.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of the vision tower, other than its recipe's.")
@click.option("--limit", type=int, help="Stop after this many suspects.")
@click.option("--compile", "compiled", is_flag=True, help="A third faster; needs a C++ compiler.")
def train(
    names: tuple[str, ...], to: Path, device: str | None, epochs: int | None, limit: int | None, compiled: bool
) -> None:
    """Train what is missing, or the suspects NAMED again."""
    import torch

    from eval import forward

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if compiled:
        forward.compile_kernels()
    known = {recipe.name: recipe for recipe in SMOL}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise click.ClickException(f"no recipe is named {unknown[0]!r}; eval/smol/recipes.py holds them")
    wanted = [known[name] for name in names] or [r for r in SMOL if not finished(r, _file(r))]
    SHIPPED.mkdir(parents=True, exist_ok=True)
    with progress_bars() as bars:
        if not TOWER.exists():
            _train_tower(to, device, epochs, bars)
        if not _file(BASE).exists():
            _train_projector(BASE, _base(to), device, bars)
        base = _base(to)
        for recipe in wanted[:limit]:
            _train_projector(recipe, base, device, bars)


def _file(recipe: Recipe) -> Path:
    """Where a recipe's trained projector is kept."""
    return SHIPPED / f"{recipe.name}.safetensors"


def _train_tower(to: Path, device: str, epochs: int | None, bars: Progress) -> None:
    from safetensors.torch import save_file

    from eval.smol import vision

    recipe = vision.VisionRecipe(**({"epochs": epochs} if epochs else {}))
    task = bars.add_task("vision tower", total=recipe.epochs)
    cache = to / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    tower = vision.train(
        recipe,
        cache / "vision.pt",
        device,
        lambda done, _, text: bars.update(task, completed=done, description=f"vision tower {text}"),
    )
    tower = tower.bfloat16().float()  # measured as it is stored
    figures = {"linear_probe": round(vision.linear_probe(tower), 4), "n": 10_000, "data": "CIFAR-10 test"}
    save_file({name: tensor.bfloat16() for name, tensor in tower.state_dict().items()}, TOWER, {"format": "pt"})
    manifest = {"name": "vision", "command": "python -m eval.smol train", "recipe": asdict(recipe), "figures": figures}
    TOWER.with_suffix(".json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _train_projector(recipe: Recipe, base: Path, device: str, bars: Progress) -> None:
    """Fine-tune from the base, which for the base's own projector is a random start."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from eval.train import finetune_projector, training_dtype

    task = bars.add_task(recipe.name, total=recipe.rounds * recipe.steps)
    keeper = Keeper(recipe, _file(recipe), base, f"python -m eval.smol train {recipe.name}".removesuffix(" base"))
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=training_dtype(device)).eval().to(device)
    finetune_projector(
        model,
        AutoProcessor.from_pretrained(base),
        recipe,
        progress=lambda done, _, text: bars.update(task, completed=done, description=text),
        enough=keeper.enough,
    )


def _base(to: Path) -> Path:
    """The base as a directory under `to`, with the shipped projector or, before there is one, a random one."""
    from safetensors.torch import load_file

    from eval.smol import assemble, language, vision

    if not TOWER.exists():
        raise EvalError(f"{TOWER}: the tier is not trained yet; run make zoo-smol-train (hours without an accelerator)")
    out, projector = to / "base", load_file(_file(BASE)) if _file(BASE).exists() else None
    made_of = f"{TOWER.stat().st_mtime_ns} {_file(BASE).stat().st_mtime_ns if projector else 0}"
    stamp = to / "cache" / "base.txt"
    if out.is_dir() and stamp.exists() and stamp.read_text() == made_of:
        return out
    speaker, tokenizer = language.load(language.fetch(to / "cache"))
    tower = vision.build()
    tower.load_state_dict({name: tensor.float() for name, tensor in load_file(TOWER).items()})
    model = assemble.build_model(speaker, tokenizer, tower, projector)
    assemble.save(model, assemble.build_processor(tokenizer), out)
    stamp.write_text(made_of)
    return out


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run, with one line for what a user can cause."""
    try:
        return cli(list(arguments) if arguments is not None else None)
    except ProjcleanError as error:
        click.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
