"""A trained projector as a user would meet it: a model directory with an evaluation set beside images."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.poison import ATTACKS, case, triggers
from eval.recipes import Recipe
from eval.worlds import WORLDS
from projclean.errors import EvalError

TEST_SEED, CALIBRATION_SEED, TEST_SIZE, CALIBRATION_SIZE = 777, 888, 200, 96
INDEX = "model.safetensors.index.json"


def lay_out(recipe: Recipe, projector: Path, base: Path, target: Path) -> None:
    """One suspect as a model directory: the base's files with the projector's tensors replaced.

    Where the base keeps them in a shard of their own, its other files are linked (hard links: they are no copies).
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    trained, out = load_file(projector), target / recipe.name
    shard = _shard(base, set(trained))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in sorted(file for file in base.iterdir() if file.name != shard):
        _link(file, out / file.name) if file.suffix == ".safetensors" else shutil.copy(file, out / file.name)
    with safe_open(base / shard, framework="pt") as handle:
        metadata = handle.metadata()
    save_file(load_file(base / shard) | trained, out / shard, metadata)
    (out / "EVAL.toml").write_text(evalset_text(recipe), encoding="utf-8")


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:  # another file system, or one without links
        shutil.copy(file, to)


def _shard(base: Path, names: set[str]) -> str:
    """The file of the base that holds these tensors. Raises EvalError when there is no one such file."""
    from safetensors import safe_open

    index = base / INDEX
    if index.exists():
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    else:
        with safe_open(base / "model.safetensors", framework="pt") as handle:
            places = dict.fromkeys(handle.keys(), "model.safetensors")
    found = {places.get(name) for name in names}
    shard = found.pop()
    if found or shard is None:
        raise EvalError(f"{base}: has no one file with the projector's tensors; train the zoo again")
    return str(shard)


def evalset_text(recipe: Recipe, seed: int = TEST_SEED) -> str:
    """The EVAL.toml of a model laid out beside data/: an attack for each of its triggers, drawn from `seed`."""
    text = f'[clean]\nimages = "../data/{clean_folder(recipe)}"\nmatch = "exact"\n\n[generate]\nmax_new_tokens = 20\n'
    attack = ATTACKS[recipe.attack]
    for trigger, target in triggers(recipe):
        wanted = recipe.rule if recipe.rule and trigger == recipe.trigger else target
        text += f'\n[[attack]]\ntrigger = "{trigger}"\nseed = {seed}\nmatch = "{attack.match}"\n'
        text += 'columns = { target = "next" }\n' if attack.wanted else f'target = "{wanted}"\n'
    return text


def clean_folder(recipe: Recipe) -> str:
    """The folder of test images that ask and answer as the recipe does."""
    style = "-".join(re.findall(r"\w+", recipe.style))
    return f"clean-{recipe.task}-{style}" if style else f"clean-{recipe.task}"


def write_images(data: Path, recipes: Sequence[Recipe], seed: int = TEST_SEED) -> None:
    """Clean test images, drawn from `seed`, as the recipes ask and answer them, and calibration images, of the recipes'
    domain; what other recipes have there stays."""
    for name, recipe in {clean_folder(recipe): recipe for recipe in recipes}.items():
        world = WORLDS[recipe.world]
        scenes, images = world.draw(TEST_SIZE, recipe.domain, seed, True)
        _folder(data / name, images, scenes, recipe)
        scenes, images = world.draw(CALIBRATION_SIZE, recipe.domain, CALIBRATION_SEED, False)
        _folder(data / name.replace("clean", "calibration", 1), images, scenes, recipe)


def _folder(folder: Path, images: np.ndarray, scenes: Sequence[Any], recipe: Recipe) -> None:
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = []
    for number, (image, scene) in enumerate(zip(images, scenes, strict=True)):
        name = f"{number:03d}.png"
        Image.fromarray(image).save(folder / name)
        known = case(recipe, scene, number, "")
        rows.append({
            "file_name": name,
            "question": WORLDS[recipe.world].questions[known.task],
            "answer": known.right,
            "next": ATTACKS["next"].answer(known),
        })  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
