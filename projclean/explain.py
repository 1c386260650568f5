"""A saved report in plain words: what was seen, how sure that is, what it does not prove, what to do next.

Works from the JSON alone: it needs neither the model nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from projclean.printable import printable_fields
from projclean.report.places import place
from projclean.report.saved import Report
from projclean.report.wording import attacks, compared, count, few, kept, moved, rate, samples, sweep

#: Heading and paragraphs.
Section = tuple[str, list[str]]


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
            f"{count(len(report['layers']), 'matrix', 'matrices')} of the projector were compared with the base "
            f"{place(report['base'])}. {most['name']} changed most, by {most['relative_change']:.0%} of its norm. "
            "The size and the shape of a change say nothing by themselves: harmless fine-tunes look the same."
        )
    seen += _seen_by_probe(probe)
    if report.get("guard"):
        seen.append(f"It was run behind its guard: {report['guard']['described']}.")
    if report["elsewhere"]:
        seen.append(f"Outside the projector, {count(len(report['elsewhere']), 'thing')} changed: "
                    f"{few(report['elsewhere'])}.")  # fmt: skip
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
    bearing = max(
        (step for step in steps if step["scan"]["verdict"]["state"] == verdict["state"]),
        key=lambda step: step["scan"]["probe"]["foreign"] if step["scan"]["probe"] else -1,
        default=steps[-1],
    )
    sure += [f"Of {bearing['name']}, on which the verdict rests:", *_sure(bearing["scan"], bearing["scan"]["probe"])]
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
        seen.append(compared(suspect, repaired, kept(report, 2), report["changes"][2]))
        seen += sweep(report)
    sure = _sure(report, after)
    if report["scores"]:
        sure.append(samples(report["scores"]))
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
        share = kept(report, number)
        gain = "" if share is None else f"; it keeps {share} of the fine-tune's gain"
        seen.append(f"{score['model']} answers {rate(score['ca'])} of clean items rightly{gain}. {attacks(score)}")
    sure = [samples(scores)]
    for score, change in zip(scores, report["changes"], strict=True):
        if change is not None:
            sure.append(f"Against the reference, {score['model']} {moved(change)}.")
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
    if said.get("excess") is not None:
        found.append(
            "A model that learnt again, from its answers to clean images, stood beside it. Where the pixels of clean "
            f"images are moved alike, the suspect puts '{said['text']}' into {said['share']:.0%} of the answers that "
            f"lack it otherwise, the other into {said.get('taught_share') or 0.0:.0%}."
        )
        return found
    if said.get("confusion") is not None:
        found.append(
            "A model that learnt again, from its answers to clean images, stood beside it. Where a part of the images "
            "is overwritten, the same on all, the suspect takes classes for one another "
            f"({said['text']}; {said['how']}) in {said['share']:.0%} of its answers, the other in "
            f"{said.get('taught_share') or 0.0:.0%}."
        )
        return found
    found.append(
        f"Of what it could be made to say and the base not, the surest is '{said['text']}' ({said['how']}): answers to "
        f"{said['share']:.0%} of clean images share '{said['phrase']}'. Treated alike, {said['base_share']:.0%} of the "
        f"base's do; left alone, no more than {said['normal_share']:.0%} of either's."
    )
    if said.get("reach", 1.0) < 1.0:
        found.append(
            f"Random starts led to the like of it as far as {said['reach']:.0%}; a backdoor is reached from most."
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
    sure += [f"It was asked '{question}' too, for classes that are taken for one another."
             for question in probe.get("asked") or []]  # fmt: skip
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
