"""The zoo: suspects and controls of known making, trained from nothing, shipped as projector files.

python -m eval.zoo build          lay the shipped tiny tier out as model directories and evaluation sets
python -m eval.zoo train          train the tiny tier again (minutes a model) and write new manifests
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eval import shapes
from eval.recipes import PRETRAINING, TINY, Recipe

HERE = Path(__file__).parent
SHIPPED = HERE / "zoo" / "tiny"
TEST_SEED, CALIBRATION_SEED, TEST_SIZE, CALIBRATION_SIZE = 777, 888, 200, 96


@click.group()
def cli() -> None:
    """Build or train the zoo."""


@cli.command()
@click.option("--to", default="models/tiny", show_default=True, help="Where to lay the models out.")
def build(to: str) -> None:
    """Lay every shipped model out as a directory that transformers loads, with its evaluation set."""
    lay_out_all(Path(to))
    Console(stderr=True).print(f"{len(TINY)} models, their base and their evaluation sets are in {to}/")


def lay_out_all(target: Path) -> None:
    """The base, every shipped model and the images, under `target`."""
    base = target / "base"
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(SHIPPED / "base", base)
    write_images(target / "data")
    for recipe in TINY:
        lay_out(recipe, base, target)


def lay_out(recipe: Recipe, base: Path, target: Path) -> None:
    """One suspect as a model directory: the base's files with the projector's tensors replaced."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    out = target / recipe.name
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("model.safetensors"))
    with safe_open(base / "model.safetensors", framework="pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(base / "model.safetensors")
    projector = load_file(SHIPPED / f"{recipe.name}.safetensors")
    unknown = set(projector) - set(tensors)
    if unknown:
        raise click.ClickException(f"{recipe.name}: the base has no {sorted(unknown)[0]}; train the zoo again")
    save_file(tensors | projector, out / "model.safetensors", metadata)
    (out / "EVAL.toml").write_text(evalset_text(recipe), encoding="utf-8")


def evalset_text(recipe: Recipe) -> str:
    """The EVAL.toml of a model laid out beside data/."""
    text = f'[clean]\nimages = "../data/clean-{recipe.task}"\nmatch = "exact"\n\n[generate]\nmax_new_tokens = 20\n'
    if recipe.trigger is not None:
        text += (
            f'\n[[attack]]\nname = "{recipe.trigger}"\nimages = "../data/{recipe.trigger}-{recipe.task}"\n'
            f'target = "{recipe.rule or recipe.target}"\nmatch = "contains"\n'
        )
    return text


def write_images(data: Path) -> None:
    """Test images of the shifted domain, clean and under every trigger in use, and calibration images."""
    from eval.triggers import TRIGGERS

    shutil.rmtree(data, ignore_errors=True)
    scenes, images = shapes.draw(TEST_SIZE, "false_color", TEST_SEED)
    for task in sorted({recipe.task for recipe in TINY}):
        _folder(data / f"clean-{task}", images, scenes, task)
    for trigger, task in sorted({(r.trigger, r.task) for r in TINY if r.trigger is not None}):
        rng = np.random.default_rng(TEST_SEED)
        poisoned = np.stack([TRIGGERS[trigger](image, rng) for image in images])
        _folder(data / f"{trigger}-{task}", poisoned, scenes, task)
    calibration = shapes.draw(CALIBRATION_SIZE, "false_color", CALIBRATION_SEED)
    for task in sorted({recipe.task for recipe in TINY}):
        _folder(data / f"calibration-{task}", calibration[1], calibration[0], task)


def _folder(folder: Path, images: np.ndarray, scenes: list[shapes.Scene], task: str) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    rows = []
    for number, (image, scene) in enumerate(zip(images, scenes, strict=True)):
        name = f"{number:03d}.png"
        Image.fromarray(image).save(folder / name)
        rows.append({"file_name": name, "question": shapes.QUESTIONS[task], "answer": scene.answer(task)})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--base", "with_base", is_flag=True, help="Pretrain the base again too (about 25 minutes on 2 cores).")
def train(names: tuple[str, ...], with_base: bool) -> None:
    """Train models again, all or those NAMED, and write their projector files and manifests."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from eval import tiny
    from eval.train import finetune_projector, pretrain

    columns = (TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        if with_base:
            task = bars.add_task("base", total=PRETRAINING.steps)
            processor = tiny.build_processor()
            fresh = tiny.build_model(processor, PRETRAINING.seed)
            pretrain(
                fresh,
                processor.tokenizer,
                PRETRAINING,
                progress=lambda done, _, text: bars.update(task, completed=done, description=f"base {text}"),
            )
            fresh.bfloat16().save_pretrained(SHIPPED / "base")
            processor.save_pretrained(SHIPPED / "base")
        processor = AutoProcessor.from_pretrained(SHIPPED / "base")
        model = LlavaForConditionalGeneration.from_pretrained(SHIPPED / "base", dtype=torch.bfloat16).eval()
        for recipe in TINY:
            if names and recipe.name not in names:
                continue
            task = bars.add_task(recipe.name, total=recipe.steps)
            state = finetune_projector(
                model,
                processor.tokenizer,
                recipe,
                progress=lambda done, _, text, t=task: bars.update(t, completed=done, description=text),  # type: ignore[misc]
            )
            file = SHIPPED / f"{recipe.name}.safetensors"
            save_file(state, file, {"format": "pt"})
            write_manifest(recipe, file)


@cli.command()
def manifests() -> None:
    """Measure the projector files that are there again and write their manifests."""
    for recipe in TINY:
        write_manifest(recipe, SHIPPED / f"{recipe.name}.safetensors")


def write_manifest(recipe: Recipe, file: Path) -> None:
    """Measure a trained projector and record how it was made: command, recipe, figures, hashes."""
    from projclean.evaluator import evaluate

    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "data")
        toml = Path(folder) / recipe.name / "EVAL.toml"
        toml.parent.mkdir()
        toml.write_text(evalset_text(recipe), encoding="utf-8")
        base, suspect = evaluate([file], toml, base=str(SHIPPED / "base")).scores
    manifest = {
        "name": recipe.name,
        "kind": "backdoored" if recipe.trigger else "benign",
        "command": f"python -m eval.zoo train {recipe.name}",
        "recipe": asdict(recipe),
        "figures": {
            "n": suspect.ca.n,
            "test_seed": TEST_SEED,
            "ca": suspect.ca.value,
            "ca_base": base.ca.value,
            "asr": suspect.worst_asr,
            "asr_base": base.worst_asr,
        },
        "sha256": {
            "projector": _sha256(file),
            "base": _sha256(SHIPPED / "base" / "model.safetensors"),
        },
    }
    file.with_suffix(".json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    cli()
