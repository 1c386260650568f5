"""Runs every defence on every model of a tier and writes the tables under eval/results/.

    python -m eval.benchmark models/tiny                 the report part: every attack × every defence
    python -m eval.benchmark models/tiny --each 1        one model of every family
    python -m eval.benchmark models/tiny --sample        two attacks, two controls and the quicker rows, in minutes
    python -m eval.benchmark path/to/suite.toml          models that a TOML file lists (eval/suites.py)

A run goes on where an earlier one stopped; a row is measured again when its model, its data or its settings changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import Progress

from eval import options
from eval.baselines.inputs import Inputs
from eval.console import command_line, ends_in_one_line, progress_bars
from eval.defences import DEFENCES, RESTORED, UNDEFENDED, Defence
from eval.figures import ModelFigures, group, model_figures
from eval.measure import Row, Settings, Subject, defence_row, load_inputs, open_subject, scan_row
from eval.plots import draw
from eval.store import Store
from eval.suites import Model, Suite, each_family, load_suite, part_of, sample_of
from eval.tables import markdown
from projclean.errors import OptionError

SCAN = "scan"


@click.command()
@options.suite
@click.option("--part", type=click.Choice(["report", "calibration", "all"]), default="report", show_default=True)
@click.option("--sample", is_flag=True, help="Two attacks, two controls, the quicker rows.")
@click.option("--each", type=click.IntRange(min=1), help="At most this many models of every family.")
@options.names
@click.option("--defence", "only", multiple=True, metavar="NAME", help="Only defences so called, or that so begin.")
@click.option("--without", multiple=True, metavar="NAME", help="No defences so called, or that so begin.")
@options.limit
@options.seed
@options.device
@options.out
@click.option("--fresh", is_flag=True, help="Measure every row again.")
@click.option("--scan/--no-scan", default=True, help="Also scan every model.")
@click.option("--tables", is_flag=True, help="Measure nothing: tables of what was measured.")
def benchmark(
    suite: Path,
    part: str,
    sample: bool,
    each: int | None,
    names: tuple[str, ...],
    only: tuple[str, ...],
    without: tuple[str, ...],
    limit: int | None,
    seed: int,
    device: str | None,
    out: Path,
    fresh: bool,
    scan: bool,
    tables: bool,
) -> None:
    """Measure the models of SUITE: a folder as `make zoo` lays it out, or a TOML file that lists models."""
    with ends_in_one_line():
        loaded = load_suite(suite)
        settings = Settings(seed, limit, device)
        subjects = [open_subject(model, loaded, settings) for model in _chosen(loaded, part, names, sample, each)]
        stem = loaded.tier + ("-sample" if sample else "") + ("" if part == "report" else f"-{part}")
        store = Store(out / f"{stem}.json", fresh)
        defences = _rows(only, without, sample)
        with progress_bars() as bars:
            figures = run(subjects, defences, store, bars, scan, not tables)
        if not figures:
            raise OptionError(f"--tables: {store.file} has no rows of these models, as they are now")
        click.echo(write_tables(loaded, subjects, figures, settings, store, stem, command_line("eval.benchmark")))


def run(
    subjects: Sequence[Subject],
    defences: Sequence[Defence],
    store: Store,
    bars: Progress | None = None,
    scan: bool = True,
    measure: bool = True,
) -> list[ModelFigures]:
    """Measure what is not yet in the store, row by row, and return every model's figures; without `measure` those of
    what is there."""
    task = bars.add_task("rows", total=len(subjects) * (len(defences) + scan)) if bars else None

    def tick(text: str) -> None:
        if bars and task is not None:
            bars.update(task, description=text, advance=1)

    figures = []
    for subject in subjects:
        model, inputs, rows = subject.model, None, {}
        found: Row | None = None
        if scan:
            found = store.get(model.name, SCAN, subject.digest)
            if found is None and measure:
                found = scan_row(subject)
                store.put(model.name, SCAN, subject.digest, found)
            tick(f"{model.name}: scan")
        for defence in defences:
            row = store.get(model.name, defence.name, subject.digest)
            if row is None and measure:
                inputs = inputs or load_inputs(subject)
                row = _measured(subject, inputs, defence, store)
            if row is not None:
                rows[defence.name] = row
            tick(f"{model.name}: {defence.name}")
        if not {UNDEFENDED, RESTORED} <= rows.keys():
            continue  # nothing to pair with
        figures.append(model_figures(model.name, model.seed, model.backdoored, model.family, rows, found))
    return figures


def _measured(subject: Subject, inputs: Inputs, defence: Defence, store: Store) -> Row:
    row = defence_row(subject, inputs, defence)
    store.put(subject.model.name, defence.name, subject.digest, row)
    return row


def write_tables(
    suite: Suite,
    subjects: Sequence[Subject],
    figures: Sequence[ModelFigures],
    settings: Settings,
    store: Store,
    stem: str,
    command: str,
) -> str:
    """Write Markdown, plot and JSON; returns the Markdown."""
    plot = store.file.with_name(f"{stem}.svg")
    draw(figures, plot)
    trained = f"seed {settings.seed}, learning rate {suite.learning_rate:g} where a defence trains"
    kept = f"What {store.file.name} beside this page holds is not measured again without `--fresh`"
    setting = f"{trained}. {_answering(subjects)}. {_measured_on(figures)}. {kept}"
    text = markdown(f"{stem}: attacks and defences", command, setting, figures, plot.name)
    store.file.with_name(f"{stem}.md").write_text(text, encoding="utf-8")
    store.write({"command": command, "seed": settings.seed, "figures": [asdict(model) for model in figures]})
    return text


def _answering(subjects: Sequence[Subject]) -> str:
    """How answers are made and judged."""
    sets = [subject.evalset for subject in subjects]
    tokens = " or ".join(map(str, sorted({evalset.max_new_tokens for evalset in sets})))
    right = ", ".join(sorted({evalset.match for evalset in sets}))
    hit = ", ".join(sorted({attack.match for evalset in sets for attack in evalset.attacks}))
    return f"Greedy decoding, at most {tokens} new tokens; rule for right answers: {right}" + (
        f"; for an attack's success: {hit}" if hit else ""
    )


def _measured_on(figures: Sequence[ModelFigures]) -> str:
    """What most rows were measured on, and which were on something else."""
    machines: dict[str, Counter[str]] = {}
    for row in (row for model in figures for row in model.rows if row.ca is not None):
        machines.setdefault(row.on or "unknown", Counter())[group(row.defence)] += 1
    most = max(machines, key=lambda name: machines[name].total())
    others = [
        f"; on {name}: {', '.join(f'`{row}` of {of}' for row, of in rows.items())}"
        for name, rows in machines.items()
        if name != most
    ]
    return f"Measured on {most}{''.join(others)}"


def _rows(only: Sequence[str], without: Sequence[str], sample: bool) -> list[Defence]:
    """The defences to measure; the two that every figure is paired with are always among them."""
    names = [defence.name for defence in DEFENCES]
    paired = {UNDEFENDED, RESTORED}
    wanted = paired.union(*(_called(name, "--defence", names) for name in only)) if only else set(names)
    wanted -= set().union(*(_called(name, "--without", names) for name in without)) - paired
    return [defence for defence in DEFENCES if defence.name in wanted and (defence.quick or not sample)]


def _called(name: str, option: str, names: Sequence[str]) -> set[str]:
    """The row of that name, or those whose names begin with it."""
    found = {name} & set(names) or {one for one in names if one.startswith(name)}
    if not found:
        there = ", ".join(dict.fromkeys(defence.method for defence in DEFENCES))
        raise OptionError(f"{option} {name}: no such row; their names begin with {there}")
    return found


def _chosen(suite: Suite, part: str, names: Sequence[str], sample: bool, each: int | None) -> tuple[Model, ...]:
    models = part_of(suite, part)
    if names:
        unknown = sorted(set(names) - {model.name for model in suite.models})
        if unknown:
            there = ", ".join(model.name for model in suite.models)
            raise OptionError(f"--model {unknown[0]}: no such model; there are {there}")
        models = tuple(model for model in suite.models if model.name in names)
    models = each_family(models, each) if each else models
    models = sample_of(models) if sample else models
    if not models:
        raise OptionError(f"--part {part}: the suite has no such models")
    return models


if __name__ == "__main__":
    benchmark()
