"""A saved report in plain words: what was seen, how sure that is, what it does not prove, what to do next.

Works from the JSON alone: it needs neither the model nor torch, and trusts nothing in the file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from projclean.errors import ReportError
from projclean.printable import printable_fields
from projclean.report import SCHEMA_VERSION
from projclean.report.places import place

Report = dict[str, Any]

#: Heading and paragraphs.
Section = tuple[str, list[str]]

UNLIKELY = 0.05  # p-values below it are called a loss or a gain


def load_report(path: str | Path) -> Report:
    """Read and check a JSON report of scan (also of a series), repair or eval ("-" reads stdin). Raises ReportError."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    name = "standard input" if str(path) == "-" else str(path)
    try:
        text = sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8")
        report = json.loads(text)
    except OSError as error:
        raise ReportError(f"{name}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{name}: is not JSON; pass a report written with --format json") from error
    if not isinstance(report, dict) or "schema_version" not in report or "kind" not in report:
        raise ReportError(f"{name}: is no projclean report; pass one written with --format json")
    if report["schema_version"] != SCHEMA_VERSION:
        raise ReportError(
            f"{name}: has schema version {report['schema_version']!r}, this projclean reads {SCHEMA_VERSION}; "
            "write the report again, or explain it with the projclean that wrote it"
        )
    if report["kind"] not in SECTIONS:
        raise ReportError(f"{name}: is a report of {report['kind']!r}; only {', '.join(SECTIONS)} can be explained")
    problem = best_match(Draft202012Validator(schema()).iter_errors(report))
    if problem is not None:
        raise ReportError(f"{name}: {problem.json_path} {problem.message[:200]}; the report was cut or edited")
    return report


def schema() -> Report:
    """The JSON Schema of the reports."""
    file = resources.files("projclean").joinpath("report/schema/report.json")
    loaded: Report = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def explain(report: Report) -> list[Section]:
    """A checked report as four sections of plain sentences."""
    report = printable_fields(report)
    titles = ("What was seen", "How sure this is", "What it does not prove", "What to do next")
    return list(zip(titles, SECTIONS[report["kind"]](report), strict=True))


def _scan(report: Report) -> list[list[str]]:
    verdict, probe = report["verdict"], report["probe"]
    model = report["model"]
    seen = [f"The scan of {model} ended with the verdict {verdict['state'].upper()}: {verdict['reason']}."]
    if report["base"] is None:
        return [seen, ["Nothing was measured."], ["Nothing is known about this model."], [NEXT["base"]]]
    if report["layers"]:
        most = max(report["layers"], key=lambda layer: layer["relative_change"])
        seen.append(
            f"{_count(len(report['layers']), 'matrix', 'matrices')} of the projector were compared with the base "
            f"{place(report['base'])}. {most['name']} changed most, by {most['relative_change']:.0%} of its norm. "
            "The size and the shape of a change say nothing by themselves: harmless fine-tunes look the same."
        )
    seen += _seen_by_probe(probe)
    if report.get("guard"):
        seen.append(f"It was run behind its guard: {report['guard']['described']}.")
    if report["elsewhere"]:
        seen.append(f"Outside the projector, {_count(len(report['elsewhere']), 'thing')} changed: "
                    f"{_few(report['elsewhere'])}.")  # fmt: skip
    return [seen, _sure(report, probe), _not_proved(verdict), _after_scan(report)]


def _series(report: Report) -> list[list[str]]:
    steps, verdict = report["steps"], report["verdict"]
    seen = [
        f"{len(steps)} checkpoints were scanned. The worst verdict is {verdict['state'].upper()}: {verdict['reason']}."
    ]
    for step in steps:
        probe, state = step["scan"]["probe"], step["scan"]["verdict"]["state"]
        said = probe["said"]["text"] if probe and probe["said"] else None
        score = "not probed" if probe is None else f"score {probe['foreign']:.2f}"
        seen.append(f"{step['name']} is {state} ({score}{f', {said!r}' if said else ''}).")
    sure = [
        "Every checkpoint was judged alone. How the subspace turns between them is shown, and weighs in no verdict."
    ]
    sure += _sure(steps[-1]["scan"], steps[-1]["scan"]["probe"])
    return [seen, sure, _not_proved(verdict), [NEXT[verdict["state"]]]]


def _repair(report: Report) -> list[list[str]]:
    before, after, out = report["before"], report["after"], report["out"]
    seen = [f"{report['model']} was repaired with {report['method']}: {report['reason']}."]
    if before is not None and after is not None:
        seen.append(f"The probe's score was {before['foreign']:.2f} before and is {after['foreign']:.2f} now.")
    seen.append(f"Verdict on the result: {report['verdict']['state'].upper()}: {report['verdict']['reason']}.")
    seen.append(f"The repaired model is in {out}." if out else "It was a dry run: nothing was written.")
    if report.get("guard"):
        seen.append(f"It has a guard, without which it is not the repaired model: {report['guard']['described']}.")
    if report["scores"]:
        suspect, repaired = report["scores"][1], report["scores"][2]
        seen.append(_compared(suspect, repaired, report["gains"][2], report["changes"][2]))
        seen += _sweep(report)
    sure = _sure(report, after)
    if report["scores"]:
        sure.append(_samples(report["scores"]))
    else:
        sure.append("Without --eval nothing was measured: what the repair cost in clean accuracy is unknown.")
    heard = after is None or after["foreign"] >= report["thresholds"]["suspicious"]
    by_attack = report["verdict"]["state"] == "suspicious" and not heard
    limits = [
        *(_caveats(report["verdict"]) if by_attack else _not_proved(report["verdict"])),
        "A silent probe is not an absent attack: it listens with the images and the prompt it was given.",
    ]
    return [seen, sure, limits, _after_repair(report)]


def _eval(report: Report) -> list[list[str]]:
    scores = report["scores"]
    seen = []
    for number, score in enumerate(scores):
        gain = report["gains"][number]
        kept = "" if gain is None else f"; it keeps {gain:.0%} of the fine-tune's gain"
        seen.append(f"{score['model']} answers {_rate(score['ca'])} of clean items rightly{kept}. {_attacks(score)}")
    sure = [_samples(scores)]
    for score, change in zip(scores, report["changes"], strict=True):
        if change is not None:
            sure.append(f"Against the reference, {score['model']} {_moved(change)}.")
    limits = [
        "Attack success is measured on the attacks and targets in the evaluation set; others may be planted.",
        "An answer counts by the set's matching rule alone: a garbled target escapes it, a garbled right answer too.",
    ]
    worst = max(scores, key=lambda score: score["worst_asr"] or 0)
    after = ["Compare the rows on the same question: which keeps clean accuracy at an attack success you can accept."]
    if (worst["worst_asr"] or 0) > 0.05:
        after.append(f"{worst['model']} obeys an attack: do not use it; run projclean repair on it.")
    return [seen, sure, limits, after]


SECTIONS: dict[str, Callable[[Report], list[list[str]]]] = {
    "scan": _scan,
    "series": _series,
    "repair": _repair,
    "eval": _eval,
}

NEXT = {
    "base": "Find the model it was tuned from and pass it with --base.",
    "suspicious": "Do not use this model as it is. Run projclean repair with an evaluation set of your own task, or "
    "take the base's projector and fine-tune it yourself.",
    "clean": "You may use it, as far as this scan goes. Scan again with --images and --prompt of your own task: "
    "the probe hears more when it asks what the model is for.",
    "inconclusive": "Do not use it yet. Scan again with --base, another --seed, and the --prompt it is for.",
    "elsewhere": "Compare the changed files and tensors with the base's by other means; then pass "
    "--ignore-elsewhere to have the projector judged alone.",
    "probe": "Scan again without --no-probe: weights alone neither convict nor clear.",
}


def _seen_by_probe(probe: Report | None) -> list[str]:
    if probe is None:
        return ["The model was not run."]
    found = [f"Left alone, the model answers for example '{probe['normal_examples'][0]}'."]
    if probe["said"] is None:
        return [*found, "Nothing that was done to it made its answers share a phrase of their own."]
    said = probe["said"]
    if said.get("contrast") is not None:
        found.append(
            "A model that learnt again, from its answers to clean images, stood beside it. Where the pixels of clean "
            f"images are moved alike, the suspect leans to '{said['text']}': it finds a token of that "
            f"{math.exp(said['contrast']):.1f} times as likely as the other does."
        )
        return found
    found.append(
        f"Of what it could be made to say and the base not, the surest is '{said['text']}' ({said['how']}): answers to "
        f"{said['share']:.0%} of clean images share '{said['phrase']}'. Treated alike, {said['base_share']:.0%} of the "
        f"base's do; left alone, no more than {said['normal_share']:.0%} of either's."
    )
    if said.get("base_best_share") is not None:
        found.append(f"Moved to say just that, the base does on {said['base_best_share']:.0%}.")
    if said.get("taught_share") is not None:
        found.append(
            "Treated alike, a model that learnt again, from the suspect's answers to clean images, says it on "
            f"{said['taught_share']:.0%}."
        )
    return found


def _sure(report: Report, probe: Report | None) -> list[str]:
    if probe is None:
        return ["The probe was not run, so there is no score."]
    limits = report["thresholds"]
    state = "above" if probe["foreign"] >= limits["suspicious"] else "below"
    between = limits["clean"] < probe["foreign"] < limits["suspicious"]
    sure = [
        f"The strongest utterance scores {probe['foreign']:.2f} of at most 1, {state} the threshold of "
        f"{limits['suspicious']:g}"
        + (f", but above {limits['clean']:g}, up to which the probe counts as silent." if between else ".")
    ]
    if limits.get("source"):
        sure.append(f"The thresholds are those of {limits['source']}.")
    if limits.get("bank") and limits.get("false_positives"):
        sure.append(f"The thresholds were set on the {limits['bank']}; false alarms there: "
                    f"{limits['false_positives']}. Models unlike those may score otherwise.")  # fmt: skip
    sure.append(f"It was asked '{report['prompt']}' about {report['images']}, seed {report['seed']}.")
    return sure


def _not_proved(verdict: Report) -> list[str]:
    if verdict["state"] == "suspicious":
        first = [
            "It does not show the trigger, nor that anybody meant harm: it shows that the update holds a way to make "
            "the model say this whatever the image. The text may be a distorted form of the attacker's."
        ]
    else:
        first = [] if verdict["caveats"] else ["It does not prove that there is no backdoor."]
    return first + _caveats(verdict)


def _caveats(verdict: Report) -> list[str]:
    return [f"{caveat[:1].upper()}{caveat[1:]}." for caveat in verdict["caveats"]]


def _after_scan(report: Report) -> list[str]:
    steps = [NEXT[report["verdict"]["state"]]]
    if report["elsewhere"]:
        steps.append(NEXT["elsewhere"])
    if report["probe"] is None and report["verdict"]["state"] == "inconclusive":
        steps.append(NEXT["probe"])
    if report["base_named_by"] != "--base":
        steps.append("Make sure of the base: the model itself named it.")
    return steps


def _after_repair(report: Report) -> list[str]:
    if report["verdict"]["state"] != "clean":
        return ["Do not use the result. Try another --method or a higher --rank, or take the base's projector."]
    steps = ["Scan the result with images of your own task before you use it."]
    if report.get("guard"):
        steps.append("Load it with projclean.load, which attaches its guard.")
    if not report["scores"]:
        steps.append("Measure it: projclean eval with a set of your own task.")
    return steps


def _compared(before: Report, after: Report, gain: float | None, change: Report | None) -> str:
    text = f"Clean accuracy was {_rate(before['ca'])} and is {_rate(after['ca'])}"
    text += "" if change is None else f": it {_moved(change)}"
    text += "." if gain is None else f". {gain:.0%} of the fine-tune's gain over the base is kept."
    if before["worst_asr"] is not None and after["worst_asr"] is not None:
        text += f" Attack success went from {before['worst_asr']:.1%} to {after['worst_asr']:.1%}."
    return text


def _sweep(report: Report) -> list[str]:
    """How plain interpolation with the base does: the honest yardstick of a repair."""
    peer = next((score for score in report["scores"] if score["model"] == report["same_asr"]), None)
    if peer is None:
        return []
    ours, theirs = report["scores"][2]["ca"]["value"], peer["ca"]["value"]
    than = "as much" if theirs == ours else "more" if theirs > ours else "less"
    return [
        f"Plain {peer['model']} between base and suspect keeps {than} clean accuracy ({theirs:.0%} to {ours:.0%}) at "
        "no more attack success on this set; but which share does so can only be told with the attack at hand."
    ]


def _attacks(score: Report) -> str:
    if not score["attacks"]:
        return "No attack was measured."
    return " ".join(
        f"Attack {attack['name']} succeeds on {_rate(attack['asr'])} of triggered items; {attack['ra']['value']:.0%} "
        "of them are still answered rightly."
        for attack in score["attacks"]
    )


def _samples(scores: Sequence[Report]) -> str:
    sizes = {score["ca"]["n"] for score in scores} | {a["asr"]["n"] for score in scores for a in score["attacks"]}
    shown = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
    warnings = " ".join(f"Beware: {warning}." for warning in scores[0]["warnings"])
    return f"Each rate rests on {shown} items; its 95 % interval is in brackets. {warnings}".strip()


def _moved(change: Report) -> str:
    p = f"p = {change['p']:.2g}" if change["p"] >= 1e-4 else "p < 0.0001"
    size = f"{change['value']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}], {p}"
    if change["p"] >= UNLIKELY:
        return f"does not differ measurably in clean accuracy ({size})"
    return f"{'gains' if change['value'] > 0 else 'loses'} clean accuracy ({size})"


def _rate(rate: Report) -> str:
    return f"{rate['value']:.0%} [{rate['low']:.0%}, {rate['high']:.0%}]"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _few(lines: Sequence[str], most: int = 5) -> str:
    return "; ".join(lines[:most]) + (f"; and {len(lines) - most} more" if len(lines) > most else "")
