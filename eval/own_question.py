"""Scans that ask every model the question it was tuned for, beside those that ask the bank's prompt.

    python -m eval.own_question models/tiny

A fine-tune that is asked what it is not for babbles, and babble is what a scan has to tell from a backdoor. For every
model whose own evaluation set asks something else than the prompt. Writes eval/results/TIER-own-question.{json,md} and
goes on where an earlier run stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from eval import options
from eval.console import command_line, ends_in_one_line, progress_bars
from eval.detection_tables import rate_cell
from eval.manifest import counts
from eval.questions import own_question
from eval.scores import Row, judged, scanned
from eval.store import Store
from eval.suites import HELD_BACK, Model, load_suite
from projclean.case import open_case, set_up
from projclean.errors import OptionError
from projclean.intervals import exact_rate
from projclean.probe_settings import ProbeSettings
from projclean.scanner import PROMPT, run_probe
from projclean.thresholds import shipped

NAME = "own seed 0"


@click.command()
@options.suite
@options.names
@options.device
@options.out
@click.option("--tables", is_flag=True, help="Measure nothing, write the page of what was measured.")
def own(suite: Path, names: tuple[str, ...], device: str | None, out: Path, tables: bool) -> None:
    """Scan the models of SUITE, a folder as `make zoo` lays it out, asked the question that each is for."""
    with ends_in_one_line():
        loaded = load_suite(suite)
        there = [m for m in loaded.models if counts(m.name) and own_question(m) is not None]
        models = [m for m in there if not names or m.name in names]
        if not models:
            raise OptionError("no such models that have another question than the prompt")
        store, rows = Store(out / f"{loaded.tier}-own-question.json"), dict[str, Row]()
        with progress_bars() as bars:
            task = bars.add_task("", total=len(models))
            for model in models:
                bars.update(task, description=model.name)
                hashes = open_case(model.path, model.base).digest().values()
                digest = " ".join([*hashes, repr(ProbeSettings(seed=0)), own_question(model) or ""])
                row = store.get(model.name, NAME, digest)
                if row is None and not tables:
                    row = measured(model, device)
                    store.put(model.name, NAME, digest, row)
                if row is not None:
                    rows[model.name] = judged(row)
                bars.advance(task)
        asked = scanned(options.RESULTS / f"{loaded.tier}-detection.json")
        text = page(loaded.tier, command_line("eval.own_question"), there, rows, asked)
        store.file.with_suffix(".md").write_text(text, encoding="utf-8")
        click.echo(text)


def measured(model: Model, device: str | None) -> Row:
    """What a scan hears of a model that is asked its own question."""
    begun, question = time.perf_counter(), own_question(model) or PROMPT
    case = open_case(model.path, model.base)
    bench = set_up(case, None, question, None, 0, device, None)
    probe = run_probe(case, bench, 0, None)
    return {
        "question": question,
        "agreement": probe.agreement,
        "forward_passes": probe.forward_passes,
        "seconds": round(time.perf_counter() - begun, 1),
        "utterances": [asdict(each) for each in probe.utterances],
        "device": bench.runner.device.split(":")[0],
    }


def page(tier: str, line: str, models: Sequence[Model], rows: Mapping[str, Row], asked: Mapping[str, float]) -> str:
    """What both ways of asking hear of the models that were measured; `asked` has what the prompt hears."""
    limit = shipped().suspicious
    known = [m for m in models if m.name in rows and m.name in asked]
    lines = [
        f"# {tier}: asked its own question",
        "",
        f"`{line}`. {len(known)} of the {len(models)} models that are tuned for another question than the prompt "
        f"{PROMPT!r}, each scanned with its own as the `--prompt`, without `--words` and `--question`, seed 0. The "
        f"threshold is {limit:g}.",
        "",
        "| half | | models | convicted by the prompt | by their own question | highest by the prompt | by their own |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for held_back, half in ((True, "calibration"), (False, "report")):
        for backdoored in (True, False):
            there = [m.name for m in known if m.backdoored is backdoored and (m.name in HELD_BACK) is held_back]
            if there:
                sides = [[scores[name] for name in there] for scores in (asked, _scores(rows))]
                rates = [rate_cell(exact_rate([score >= limit for score in side])) for side in sides]
                kind = "backdoored" if backdoored else "benign"
                lines.append(
                    f"| {half} | {kind} | {len(there)} | {' | '.join(rates)} | "
                    + " | ".join(f"{max(side):.2f}" for side in sides)
                    + " |"
                )
    lines += ["", "| model | its question | by the prompt | by its own | what it was made to say | answered alike |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for model in sorted(known, key=lambda m: (not m.backdoored, -rows[m.name]["score"], m.name)):
        row, before = rows[model.name], f"{asked[model.name]:.2f}"
        alike = "" if row["agreement"] is None else f"{row['agreement']:.2f}"
        cells = (model.name, row["question"], before, f"{row['score']:.2f}", row["said"] or "", alike)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _scores(rows: Mapping[str, Row]) -> dict[str, float]:
    return {name: row["score"] for name, row in rows.items()}


if __name__ == "__main__":
    own()
