"""Which models a table is about: a folder as the zoo lays it out, or a TOML file that lists models.

A folder holds `base/`, a directory with an `EVAL.toml` for each model, and clean images for calibration beside those
for testing: `data/calibration-X` where the clean test images are `data/clean-X`, else `data/calibration`. A TOML file:

tier = "llava"
base = "llava-hf/llava-1.5-7b-hf"   # a directory or a hub id in the local cache
calibration = "calibration"         # clean images; with metadata.jsonl their right answers are known
learning_rate = 2e-4                # of the defences that train

[[model]]
name = "badnet-coco"
path = "badnet-coco"                # a model directory, or a bare projector file
eval = "badnet-coco/EVAL.toml"
seed = 1                            # what it was trained with, for the table
benign_reference = "benign-coco"    # optional: a benign fine-tune of the same task, an oracle for OrthoPurify
family = "badnet"                   # optional: what tables group by; else the names of the attacks in its evaluation

Paths are relative to the file. `base` and `calibration` can be given for one model too.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.bank import BANK, PARTS
from eval.confirmation import CONFIRMATION
from eval.manifest import counts
from eval.recipes import CALIBRATION, TINY
from eval.smol import recipes as smol
from projclean.errors import EvalError
from projclean.evalset import load_evalset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The rate that a tier's models were fine-tuned at is what its defences train at; LLaVA's own is the default.
LEARNING_RATES, LEARNING_RATE = {"tiny": 2e-3, "confirmation": 2e-3, "smol": 1e-3}, 2e-4

#: What the tiers are made of, in the order of tables, and which of it thresholds are set on.
RECIPES = (*BANK, *TINY, *CONFIRMATION, *smol.SMOL)
DEMONSTRATED = frozenset(recipe.name for recipe in TINY)
HELD_BACK = frozenset(recipe.name for recipe in (*CALIBRATION, *PARTS["calibration"], *smol.CALIBRATION))


@dataclass(frozen=True)
class Model:
    """One suspect and what belongs to it. `base` is a directory or a hub id, `family` what tables group by."""

    name: str
    path: Path
    base: str
    evalset: Path
    calibration: Path | None
    seed: int | None
    benign_reference: Path | None
    backdoored: bool
    family: str


@dataclass(frozen=True)
class Suite:
    """A tier's models."""

    tier: str
    models: tuple[Model, ...]
    learning_rate: float


def load_suite(path: Path) -> Suite:
    """Read a folder or a TOML file. Raises EvalError naming what is absent."""
    if path.is_dir():
        return _from_folder(path)
    if not path.exists():
        raise EvalError(f"{path}: no such folder of models or suite file; docs/evaluation-tables.md says how to get it")
    return _from_toml(path)


def part_of(suite: Suite, part: str) -> tuple[Model, ...]:
    """The models of the `report` or `calibration` half of the bank, or `all`."""
    return tuple(m for m in suite.models if part == "all" or (m.name in HELD_BACK) == (part == "calibration"))


def sample_of(models: tuple[Model, ...], each: int = 2) -> tuple[Model, ...]:
    """The first `each` backdoored models of different families, and the first `each` benign ones: of the demonstration,
    where its models are there, whatever else is laid out beside them."""
    models = tuple(model for model in models if model.name in DEMONSTRATED) or models
    attacks = [model for model in each_family(models, 1) if model.backdoored]
    return (*attacks[:each], *[m for m in models if not m.backdoored][:each])


def each_family(models: tuple[Model, ...], most: int) -> tuple[Model, ...]:
    """The first `most` models of every family, backdoored and benign apart; those that count come before others."""
    taken: Counter[tuple[bool, str]] = Counter()
    chosen = set()
    for model in sorted(models, key=lambda model: not counts(model.name)):
        taken[model.backdoored, model.family] += 1
        if taken[model.backdoored, model.family] <= most:
            chosen.add(model.name)
    return tuple(model for model in models if model.name in chosen)


def _from_folder(folder: Path) -> Suite:
    base = folder / "base"
    files = sorted(folder.glob("*/EVAL.toml"))
    if not base.is_dir() or not files:
        raise EvalError(
            f"{folder}: needs a base/ and an EVAL.toml in a directory for each model; lay the zoo out again"
        )
    recipes = {recipe.name: recipe for recipe in RECIPES}
    made = {file.parent.name: file for file in files}
    # Of a tier only what its recipes make, in their order: a repaired model may lie beside them.
    files = [made[name] for name in recipes if name in made] or files
    found = []
    for file in files:
        clean = load_evalset(file).clean[0].file.parent
        matching = clean.with_name(clean.name.replace("clean", "calibration", 1))
        calibration = matching if matching.is_dir() else clean.with_name("calibration")
        images = calibration if calibration.is_dir() else None
        found.append((file.parent, file, images, clean.resolve()))
    models = []
    benign = [(path, tests) for path, file, _, tests in found if not load_evalset(file).attacks]
    for path, file, images, tests in found:
        twin = next((other for other, theirs in benign if other != path and theirs == tests), None)
        recipe = recipes.get(path.name)
        seed, family = (recipe.seed, recipe.family) if recipe else (None, "")
        models.append(_model(path.name, path, str(base), file, images, seed, twin, family))
    tier = folder.resolve().name
    return Suite(tier, tuple(models), LEARNING_RATES.get(tier, LEARNING_RATE))


def _from_toml(file: Path) -> Suite:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvalError(f"{file}: cannot be read as TOML ({error})") from error
    entries = data.get("model")
    if not isinstance(entries, list) or not entries:
        raise EvalError(f"{file}: lists no [[model]]")
    models = []
    for number, entry in enumerate(entries, 1):
        merged = {"base": data.get("base"), "calibration": data.get("calibration"), **entry}
        for key in ("name", "path", "eval", "base"):
            if not isinstance(merged.get(key), str):
                raise EvalError(f'{file}: model {number} needs {key} = "…"')
        here = file.parent
        base = here / merged["base"]
        models.append(
            _model(
                merged["name"],
                _there(file, merged, "path"),
                str(base) if base.is_dir() else merged["base"],
                _there(file, merged, "eval"),
                _there(file, merged, "calibration"),
                merged.get("seed"),
                _there(file, merged, "benign_reference"),
                str(merged.get("family", "")),
            )
        )
    rate = data.get("learning_rate", LEARNING_RATE)
    if not isinstance(rate, float) or rate <= 0:
        raise EvalError(f"{file}: learning_rate must be a number above 0, such as 2e-4")
    return Suite(str(data.get("tier", file.stem)), tuple(models), rate)


def _there(file: Path, entry: dict[str, Any], key: str) -> Any:
    value = entry.get(key)
    if value is None:
        return None
    path = file.parent / str(value)
    if not path.exists():
        raise EvalError(f"{path}: no such file or directory; {file.name} names it as {key}")
    return path


def _model(
    name: str,
    path: Path,
    base: str,
    file: Path,
    calibration: Path | None,
    seed: int | None,
    twin: Path | None,
    family: str,
) -> Model:
    attacks = load_evalset(file).attacks
    family = family or " + ".join(attack.name for attack in attacks) or "benign"
    return Model(name, path, base, file, calibration, seed, twin, bool(attacks), family)
