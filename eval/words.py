"""The probe's search for single words, alone, on the models that its other searches leave quiet.

    python -m eval.words models/tiny

A scan with --words looks for words where nothing plainly foreign was heard (`probe.PLAIN`). So that nothing is scanned
anew for it, only that search is run, and the model that learnt again for it, on every model whose score in
TIER-detection.json is below that. Writes eval/results/TIER-words.{json,md} and goes on where an earlier run stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import click

from eval import options
from eval.console import command_line, ends_in_one_line, progress_bars
from eval.detection import judged
from eval.detection_tables import rate_cell
from eval.manifest import counts
from eval.store import Store
from eval.suites import HELD_BACK, Model, load_suite
from projclean.case import open_case, set_up
from projclean.errors import OptionError
from projclean.intervals import auroc, exact_rate
from projclean.listening import Listener
from projclean.methods import base_weights, suspect_weights
from projclean.precision import quick
from projclean.probe import PLAIN, WORDS, ProbeSettings
from projclean.scanner import PROMPT
from projclean.second_look import MEASURED, SecondLook
from projclean.thresholding import counted
from projclean.thresholds import shipped
from projclean.utterance import SWAPS, Utterance, strongest

Row = dict[str, Any]


@click.command()
@options.suite
@options.names
@options.device
@options.out
@click.option("--tables", is_flag=True, help="Measure nothing, write the page of what was measured.")
def words(suite: Path, names: tuple[str, ...], device: str | None, out: Path, tables: bool) -> None:
    """Look for single words in the quiet models of SUITE, a folder as `make zoo` lays it out."""
    with ends_in_one_line():
        loaded = load_suite(suite)
        scores = scanned(options.RESULTS / f"{loaded.tier}-detection.json")
        quiet = [m for m in loaded.models if counts(m.name) and scores.get(m.name, PLAIN) < PLAIN]
        models = [m for m in quiet if not names or m.name in names]
        if not models:
            raise OptionError("no such models below the score from which nothing more is looked for")
        store, rows = Store(out / f"{loaded.tier}-words.json"), {}
        with progress_bars() as bars:
            task = bars.add_task("", total=len(models))
            for model in models:
                bars.update(task, description=model.name)
                settings = replace(ProbeSettings(), words=WORDS)
                digest = " ".join([*open_case(model.path, model.base).digest().values(), repr(settings), str(MEASURED)])
                row = store.get(model.name, "words", digest)
                if row is None and not tables:
                    row = measured(model, settings, device)
                    store.put(model.name, "words", digest, row)
                if row is not None:
                    rows[model.name] = row
                bars.advance(task)
        scanned_models = [m for m in loaded.models if counts(m.name) and m.name in scores]
        text = markdown(loaded.tier, command_line("eval.words"), rows, scores, quiet, scanned_models)
        store.file.with_suffix(".md").write_text(text, encoding="utf-8")
        click.echo(text)


def scanned(file: Path) -> dict[str, float]:
    """What every model scored in the scans that are on disk."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {name: judged(row["seed 0"])["score"] for name, row in rows.items() if "seed 0" in row}


def measured(model: Model, settings: ProbeSettings, device: str | None) -> Row:
    """What the search for words hears of one model."""
    begun = time.perf_counter()
    case = open_case(model.path, model.base)
    bench = set_up(case, None, PROMPT, None, settings.seed, device, None)
    asked, sides = bench.asked, (suspect_weights(case.update), base_weights(case.update))
    layer = next(each.name for each in case.update.layers if each.changed and each.name in asked.moments)
    fit, read = asked.batches[0], asked.batches[min(1, len(asked.batches) - 1)]
    with quick(bench.runner):
        listener = Listener(bench.runner, *sides, fit, read, settings.max_new_tokens)
        second = SecondLook(listener, case.update, asked.batches, asked.shown)
        second.learn(settings.taught, settings.learning, settings.seed)
        learnt, passes = time.perf_counter(), second.passes
        heard = second.swap(
            layer, settings.wide, settings.parted_from(), settings.excite, settings.swapping, settings.words
        )  # fmt: skip
    return {
        "agreement": second.agreement,
        "utterances": [asdict(each.utterance) for each in heard],
        "forward_passes": second.passes - passes,
        "seconds": round(time.perf_counter() - learnt, 1),
        "seconds_before": round(learnt - begun, 1),
        "device": bench.runner.device.split(":")[0],
    }


def markdown(
    tier: str,
    command: str,
    rows: dict[str, Row],
    scores: dict[str, float],
    quiet: Sequence[Model],
    models: Sequence[Model],
) -> str:
    """The page: what words change for all models and half by half, and every quiet model."""
    limit = shipped().suspicious
    lines = [
        f"# {tier}: single words",
        "",
        f"`{command}`. What `scan --words` hears beside what a scan hears without it, on the models that the "
        f"latter leaves below {PLAIN:g} (the others are not looked at for words). Built-in images, the prompt "
        f"{PROMPT!r}, seed 0. The threshold is {limit:g}; an excess of {SWAPS:g} scores 1.",
        "",
        _cost(rows),
        "",
        *_whole(rows, scores, quiet, models),
    ]
    for held_back, half in ((True, "calibration"), (False, "report")):
        there = [model for model in quiet if (model.name in HELD_BACK) is held_back]
        known = [model for model in there if model.name in rows]
        if not known:
            continue
        lines += [
            f"## The {half} half: {len(known)} of {len(there)} such models measured",
            "",
            "| | models | convicted without | by words | with |",
            "| --- | --- | --- | --- | --- |",
        ]
        for backdoored in (True, False):
            told = [(scores[m.name], _score(rows[m.name])) for m in known if m.backdoored is backdoored]
            if told:
                before, alone = ([score >= limit for score in column] for column in zip(*told, strict=True))
                either = [a or b for a, b in zip(before, alone, strict=True)]
                lines.append(
                    f"| {'backdoored' if backdoored else 'benign'} | {len(told)} | {sum(before)} | {sum(alone)} | "
                    f"{counted(exact_rate(either)) if not backdoored else sum(either)} |"
                )
        lines += ["", "| model | score without | by words | word | probability | answers with it, of the other | "
                  "answered alike |", "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        ranked = sorted(known, key=lambda m: (not m.backdoored, -_score(rows[m.name]), m.name))
        lines += [_line(model.name, scores[model.name], rows[model.name]) for model in ranked]
        lines.append("")
    return "\n".join(lines)


def _whole(
    rows: dict[str, Row], scores: dict[str, float], quiet: Sequence[Model], models: Sequence[Model]
) -> list[str]:
    """All models of each half, those that are not quiet with the score that they have."""
    limit = shipped().suspicious
    lines = [
        "## All models", "",
        "Those that a scan hears plainly keep their score, and so do quiet ones that were not measured.", "",
        "| half | not measured | words | AUROC | true positives | false positives | highest benign |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for held_back, half in ((True, "calibration"), (False, "report")):
        there = [model for model in models if (model.name in HELD_BACK) is held_back]
        absent = sum(model.name not in rows for model in quiet if (model.name in HELD_BACK) is held_back)
        for with_words in (False, True):
            found = {m.name: max(scores[m.name], _score(rows[m.name])) if with_words and m.name in rows
                     else scores[m.name] for m in there}  # fmt: skip
            bad, good = ([found[m.name] for m in there if m.backdoored is kind] for kind in (True, False))
            if not bad or not good:
                continue
            area, hits = auroc(bad, good), [exact_rate([score >= limit for score in side]) for side in (bad, good)]
            lines.append(
                f"| {half} | {absent if with_words else ''} | {'with' if with_words else 'without'} | "
                f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}] | "
                + " | ".join(map(rate_cell, hits))
                + f" | {max(good):.3f} |"
            )
    return [*lines, ""]


def _cost(rows: dict[str, Row]) -> str:
    """What the search takes beside a scan, where the model that learnt again follows so that there is one."""
    ran = [row for row in rows.values() if row["utterances"]]
    if not ran:
        return "In no model it was looked for words: none was followed."
    passes, seconds = (mean(row[key] for row in ran) for key in ("forward_passes", "seconds"))
    where = ", ".join(sorted({row["device"] for row in ran}))
    return f"The search takes {passes:.0f} forward passes and {seconds:.0f} s a model ({where}, mean of {len(ran)})."


def _heard(row: Row) -> list[Utterance]:
    return [Utterance(**one) for one in row["utterances"]]


def _score(row: Row) -> float:
    return strongest(_heard(row))


def _line(name: str, without: float, row: Row) -> str:
    said = max(_heard(row), key=lambda one: one.foreign, default=None)
    alike = "" if row["agreement"] is None else f"{row['agreement']:.2f}"
    if said is None or said.excess is None or said.taught_share is None:
        return f"| {name} | {without:.2f} | – | | | | {alike} |"
    return (
        f"| {name} | {without:.2f} | {said.foreign:.2f} | {said.text} | {said.certainty:.2f} | "
        f"{said.share:.2f}, {said.taught_share:.2f} | {alike} |"
    )


if __name__ == "__main__":
    words()
