"""What a scan looks for only where asked, alone, on the models that its other searches leave quiet.

So that nothing is scanned anew for it, one search is run, and the model that learnt again for it, on every model whose
score in TIER-detection.json is below that from which nothing more is looked for (`probe.PLAIN`). Its rows and its page
are eval/results/TIER-NAME.{json,md}; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import click

from eval import options
from eval.console import command_line, ends_in_one_line, progress_bars
from eval.detection_tables import rate_cell
from eval.manifest import counts
from eval.scores import Row, heard_in, judged, scanned
from eval.store import Store
from eval.suites import HELD_BACK, Model, load_suite
from projclean.case import Bench, Case, open_case, set_up
from projclean.errors import OptionError
from projclean.first_look import PLAIN
from projclean.intervals import auroc, exact_rate
from projclean.listening import Heard
from projclean.precision import quick
from projclean.probe_settings import ProbeSettings
from projclean.scanner import PROMPT
from projclean.second_look import SecondLook
from projclean.thresholding import counted
from projclean.thresholds import shipped
from projclean.utterance import Utterance


@dataclass(frozen=True)
class Search:
    """A search and how its page speaks of it.

    `option` of `scan` turns it on, `name` is what files are called by, `told` ends the page's first paragraph. `heard`
    runs it beside a model that learnt again; `question` is what a model is asked for it, None where it is not run on
    that model. `settings` are the probe's, and `key` is what rows depend on beside them and the models. `columns` head
    the table of models, `cells` fill a row of it from what was heard best.
    """

    name: str
    option: str
    told: str
    settings: ProbeSettings
    key: str
    question: Callable[[Model], str | None]
    heard: Callable[[SecondLook, str, ProbeSettings], Sequence[Heard | None]]
    columns: tuple[str, ...]
    cells: Callable[[Utterance], tuple[str, ...]]


@dataclass(frozen=True)
class Found:
    """What is known of a tier's models: `rows` of the search, `scores` of scans without it, `kept` of scans with it but
    for what it hears itself; the `quiet` models that it is for, and `every` one that was scanned."""

    rows: dict[str, Row]
    scores: dict[str, float]
    kept: dict[str, float]
    quiet: Sequence[Model]
    every: Sequence[Model]


def command(search: Search, module: str, told: str) -> click.Command:
    """The command that runs a search; `told` is its help."""

    @click.command(help=told)
    @options.suite
    @options.names
    @options.device
    @options.out
    @click.option("--tables", is_flag=True, help="Measure nothing, write the page of what was measured.")
    def run(suite: Path, names: tuple[str, ...], device: str | None, out: Path, tables: bool) -> None:
        with ends_in_one_line():
            _run(search, module, suite, names, device, out, tables)

    return run


def _run(
    search: Search, module: str, suite: Path, names: tuple[str, ...], device: str | None, out: Path, tables: bool
) -> None:
    """Measure what is not measured yet of a suite's quiet models (nothing with `tables`), and write the page."""
    loaded = load_suite(suite)
    file = options.RESULTS / f"{loaded.tier}-detection.json"
    scores, kept = scanned(file), scanned(file, (search.option,))
    quiet = [
        m for m in loaded.models
        if counts(m.name) and kept.get(m.name, PLAIN) < PLAIN and search.question(m) is not None
    ]  # fmt: skip
    models = [m for m in quiet if not names or m.name in names]
    if not models:
        raise OptionError("no such models below the score from which nothing more is looked for")
    store, rows = Store(out / f"{loaded.tier}-{search.name}.json"), {}
    with progress_bars() as bars:
        task = bars.add_task("", total=len(models))
        for model in models:
            bars.update(task, description=model.name)
            hashes = open_case(model.path, model.base).digest().values()
            digest = " ".join([*hashes, repr(search.settings), search.key])
            row = store.get(model.name, search.name, digest)
            if row is None and not tables:
                row = measured(search, model, device)
                store.put(model.name, search.name, digest, row)
            if row is not None:
                rows[model.name] = row
            bars.advance(task)
    every = [m for m in loaded.models if counts(m.name) and m.name in scores]
    text = page(search, loaded.tier, command_line(module), Found(rows, scores, kept, quiet, every))
    store.file.with_suffix(".md").write_text(text, encoding="utf-8")
    click.echo(text)


def measured(search: Search, model: Model, device: str | None) -> Row:
    """What the search hears of one model."""
    begun, settings, question = time.perf_counter(), search.settings, search.question(model) or PROMPT
    case = open_case(model.path, model.base)
    bench = set_up(case, None, PROMPT, None, settings.seed, device, None)
    layer = next(each.name for each in case.update.layers if each.changed and each.name in bench.asked.moments)
    with quick(bench.runner):
        second = _second_look(case, bench, question, settings)
        learnt, passes = time.perf_counter(), second.passes
        heard = [each for each in search.heard(second, layer, settings) if each is not None]
    return {
        "question": question,
        "agreement": second.agreement,
        "utterances": [asdict(each.utterance) for each in heard],
        "forward_passes": second.passes - passes,
        "seconds": round(time.perf_counter() - learnt, 1),
        "seconds_before": round(learnt - begun, 1),
        "device": bench.runner.device.split(":")[0],
    }


def _second_look(case: Case, bench: Bench, question: str, settings: ProbeSettings) -> SecondLook:
    """A model that learnt again beside the suspect, both asked a question about the images of the probe."""
    look = SecondLook.asking(bench.runner, case.update, bench.asked.shown, question, settings.max_new_tokens)
    look.learn(settings.taught, settings.learning, settings.seed)
    return look


def page(search: Search, tier: str, line: str, found: Found) -> str:
    """What the search changes for all models and half by half, and every quiet model that it is for; `line` is the
    command that was run."""
    rows, scores, kept = found.rows, found.scores, found.kept
    limit = shipped().suspicious
    lines = [
        f"# {tier}: {search.option}",
        "",
        f"`{line}`. What `scan {search.option}` hears beside what a scan hears without it, on the models that are "
        f"otherwise left below {PLAIN:g} (nothing more is looked for in the others). {search.told} The threshold is "
        f"{limit:g}.",
        "",
        _cost(rows),
        "",
        *_whole(search, found),
    ]
    for held_back, half in ((True, "calibration"), (False, "report")):
        there = [model for model in found.quiet if (model.name in HELD_BACK) is held_back]
        known = [model for model in there if model.name in rows]
        if not known:
            continue
        lines += [
            f"## The {half} half: {len(known)} of {len(there)} such models measured",
            "",
            f"| | models | convicted without | by {search.option} | with |",
            "| --- | --- | --- | --- | --- |",
        ]
        for backdoored in (True, False):
            told = [
                (scores[m.name], _score(rows[m.name]), max(kept[m.name], _score(rows[m.name])))
                for m in known if m.backdoored is backdoored
            ]  # fmt: skip
            if told:
                before, alone, either = ([score >= limit for score in column] for column in zip(*told, strict=True))
                lines.append(
                    f"| {'backdoored' if backdoored else 'benign'} | {len(told)} | {sum(before)} | {sum(alone)} | "
                    f"{counted(exact_rate(either)) if not backdoored else sum(either)} |"
                )
        head = ("model", "score without", f"by {search.option}", *search.columns, "answered alike")
        lines += ["", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        ranked = sorted(known, key=lambda m: (not m.backdoored, -_score(rows[m.name]), m.name))
        lines += [_line(search, model.name, scores[model.name], rows[model.name]) for model in ranked]
        lines.append("")
    return "\n".join(lines)


def _whole(search: Search, found: Found) -> list[str]:
    """All models of each half, those that are not quiet with the score that they have."""
    limit = shipped().suspicious
    lines = [
        "## All models", "",
        "Those that a scan hears plainly keep their score, and so do quiet ones that were not measured.", "",
        f"| half | not measured | {search.option} | AUROC | true positives | false positives | highest benign |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for held_back, half in ((True, "calibration"), (False, "report")):
        there = [model for model in found.every if (model.name in HELD_BACK) is held_back]
        absent = sum(model.name not in found.rows for model in found.quiet if (model.name in HELD_BACK) is held_back)
        for asked in (False, True):
            loudest = found.scores
            if asked:
                loudest = found.kept | {name: max(found.kept[name], _score(row)) for name, row in found.rows.items()}
            bad, good = ([loudest[m.name] for m in there if m.backdoored is kind] for kind in (True, False))
            if not bad or not good:
                continue
            area, hits = auroc(bad, good), [exact_rate([score >= limit for score in side]) for side in (bad, good)]
            lines.append(
                f"| {half} | {absent if asked else ''} | {'with' if asked else 'without'} | "
                f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}] | "
                + " | ".join(map(rate_cell, hits))
                + f" | {max(good):.3f} |"
            )
    return [*lines, ""]


def _cost(rows: dict[str, Row]) -> str:
    """What the search takes beside a scan, where the model that learnt again follows so that there is one."""
    ran = [row for row in rows.values() if row["utterances"]]
    if not ran:
        return "No model was looked at: none was followed."
    passes, seconds = (mean(row[key] for row in ran) for key in ("forward_passes", "seconds"))
    where = ", ".join(sorted({row["device"] for row in ran}))
    return f"The search takes {passes:.0f} forward passes and {seconds:.0f} s a model ({where}, mean of {len(ran)})."


def _score(row: Row) -> float:
    return float(judged(row)["score"])


def _line(search: Search, name: str, without: float, row: Row) -> str:
    said = max(heard_in(row), key=lambda one: one.foreign, default=None)
    alike = "" if row["agreement"] is None else f"{row['agreement']:.2f}"
    told = ("–", *[""] * len(search.columns)) if said is None else (f"{said.foreign:.2f}", *search.cells(said))
    line = (name, f"{without:.2f}", *told, alike)
    return "".join(f"| {cell} " if cell else "| " for cell in line) + "|"
