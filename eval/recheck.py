"""Do the attacks also work on images on which nobody decided when to stop training them?

    python -m eval.recheck models/tiny

An attack is trained until its ASR on the test images is .9 (`eval.manifest`), and the tables are of the same images, so
their undefended row is a little too high near that bar. Here every attack of a tier, undefended, is measured on as many
images and triggers of another seed. Writes eval/results/TIER-recheck.{json,md} and goes on where a run stopped.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import click

from eval import options
from eval.console import command_line, ends_in_one_line, progress_bars
from eval.layout import TEST_SEED, evalset_text, write_images
from eval.manifest import WORKS, counts
from eval.recipes import Recipe
from eval.store import Store
from eval.suites import HELD_BACK, RECIPES, Model, load_suite
from projclean.case import open_case
from projclean.errors import OptionError
from projclean.evaluator import evaluate

FRESH_SEED = TEST_SEED + 1000
Row = dict[str, Any]


@click.command()
@options.suite
@options.names
@options.device
@options.out
def recheck(suite: Path, names: tuple[str, ...], device: str | None, out: Path) -> None:
    """Measure every attack of SUITE, a folder as `make zoo` lays it out, on fresh images."""
    with ends_in_one_line():
        loaded, recipes = load_suite(suite), {recipe.name: recipe for recipe in RECIPES}
        models = [m for m in loaded.models if m.backdoored and m.name in recipes and (not names or m.name in names)]
        if not models:
            raise OptionError("no such backdoored models of the zoo: how their images are drawn must be known")
        store = Store(out / f"{loaded.tier}-recheck.json")
        rows: dict[str, Row] = {}
        with progress_bars() as bars:
            task = bars.add_task("", total=len(models))
            for model in models:
                bars.update(task, description=model.name)
                digest = f"{open_case(model.path, model.base).digest()['suspect']} {FRESH_SEED}"
                row = store.get(model.name, "fresh", digest)
                if row is None:
                    row = measured(model, recipes[model.name], device)
                    store.put(model.name, "fresh", digest, row)
                rows[model.name] = row
                bars.advance(task)
        text = markdown(loaded.tier, command_line("eval.recheck"), rows)
        store.file.with_suffix(".md").write_text(text, encoding="utf-8")
        click.echo(text)


def measured(model: Model, recipe: Recipe, device: str | None) -> Row:
    """ASR, of a model with two triggers the lower one, and CA: on the test images and on fresh ones."""
    usual = evaluate([model.path], model.evalset, device=device).scores[0]
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "data", [recipe], FRESH_SEED)
        toml = Path(folder) / recipe.name / "EVAL.toml"
        toml.parent.mkdir()
        toml.write_text(evalset_text(recipe, FRESH_SEED), encoding="utf-8")
        fresh = evaluate([model.path], toml, device=device).scores[0]
    return {
        name: {
            "asr": asdict(min((attack.asr for attack in found.attacks), key=lambda asr: asr.value)),
            "ca": asdict(found.ca),
        }
        for name, found in (("test", usual), ("fresh", fresh))
    }


def markdown(tier: str, command: str, rows: dict[str, Row]) -> str:
    """The page."""
    kept = {name: row for name, row in rows.items() if row["test"]["asr"]["value"] >= WORKS and counts(name)}
    held = sum(row["fresh"]["asr"]["value"] >= WORKS for row in kept.values())
    lines = [
        f"# {tier}: the attacks on fresh images",
        "",
        f"`{command}`. Undefended, greedy; the images and triggers of the tables (seed {TEST_SEED}), on which training "
        f"was stopped, beside as many of seed {FRESH_SEED}. Brackets: 95 % Wilson intervals.",
        "",
    ]
    if kept:
        means = {
            (side, rate): mean(row[side][rate]["value"] for row in kept.values())
            for side in ("test", "fresh")
            for rate in ("asr", "ca")
        }
        lines += [
            f"Of the {len(kept)} attacks that count (ASR at least {WORKS:g} on the tables' images), {held} reach it on "
            f"the fresh ones too. Mean ASR {means['test', 'asr']:.3f} there and {means['fresh', 'asr']:.3f} here, mean "
            f"CA {means['test', 'ca']:.3f} and {means['fresh', 'ca']:.3f}.",
            "",
        ]
    lines += ["| model | half | n | ASR | ASR, fresh | CA | CA, fresh |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for name, row in rows.items():
        half = "calibration" if name in HELD_BACK else "report"
        cells = [_rate(row[side][rate]) for rate in ("asr", "ca") for side in ("test", "fresh")]
        lines.append(f"| {name} | {half} | {row['fresh']['asr']['n']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rate(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


if __name__ == "__main__":
    recheck()
