"""The SARIF 2.1.0 report: for code-scanning dashboards.

One result a finding: the verdict when it is not clean, and every change outside the projector. A clean scan has
none. `invocations[0].exitCode` is the exit code of the process. Locations are relative; a model outside the working
directory is named by its last component, so that no directory of the machine is told.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from projclean import __version__
from projclean.evaluator import EvalResult
from projclean.probe import Probe
from projclean.repairer import RepairResult
from projclean.report import tables
from projclean.scanner import ScanResult
from projclean.series import SeriesResult
from projclean.thresholds import Thresholds
from projclean.verdict import Verdict

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MOST_ELSEWHERE = 100

#: Rule id: name, level, security severity (0 to 10), what it says, what to do.
RULES = {
    "PC001": (
        "ForeignUtterance", "error", "8.0",
        "The projector's update can be made to say a text that its base would not.",
        "Moved along directions of the update that clean images do not need, the model says one text whatever the "
        "image, while its base, moved alike, does not: the mark of a backdoor in the projector. Do not use the model "
        "as it is. Run `projclean repair`, or take the projector of the base.",
    ),
    "PC002": (
        "InconclusiveScan", "warning", "4.0",
        "The scan could neither convict nor clear the model.",
        "A base is missing, something else changed, the probe was not run, or its score lies between the two "
        "thresholds. The message says which. Pass `--base`, clean `--images` of the model's own domain, or "
        "`--ignore-elsewhere` once the listed changes are explained.",
    ),
    "PC003": (
        "ChangedElsewhere", "warning", "4.0",
        "A tensor or file outside the projector differs from the base's.",
        "The probe looks at the projector only. A changed tokenizer, chat template, configuration, program file or "
        "other tensor can hold a backdoor that it does not see. Compare the file with the base's by other means.",
    ),
    "PC004": (
        "AttackSuccess", "note", "0.0",
        "The share of triggered inputs whose answer meets the attack's target.",
        "A measurement on an evaluation set, not a verdict: attack success, robust accuracy and clean accuracy.",
    ),
}  # fmt: skip


def render(result: Any, plain: bool = False, exit_code: int = 0) -> str:
    """One SARIF log with one run."""
    notes: tuple[str, ...]
    if isinstance(result, ScanResult):
        kind, results = "scan", _scan(result)
        notes = (*_thresholds(result.thresholds, result.probe), *result.verdict.caveats)
    elif isinstance(result, SeriesResult):
        kind, results = "series", [found for step in result.steps for found in _scan(step.scan)]
        probed = tables.probed(result)
        notes = (*_thresholds(result.thresholds, probed.probe if probed else None), *result.verdict.caveats)
    elif isinstance(result, RepairResult):
        kind, results = "repair", _verdict(result.verdict, result.out or result.model, result.method)
        notes = (result.reason, *_thresholds(result.thresholds, result.after), *result.verdict.caveats)
    elif isinstance(result, EvalResult):
        kind, results, notes = "eval", _eval(result), (tables.sample(result), *result.scores[0].warnings)
    else:
        raise TypeError(f"no SARIF report for {type(result).__name__}")
    run = {
        "tool": {"driver": _driver()},
        "automationDetails": {"id": f"projclean/{kind}/{_subject(result)}"},
        "invocations": [
            {
                "executionSuccessful": True,
                "exitCode": exit_code,
                "toolExecutionNotifications": [{"level": "note", "message": _message(note)} for note in notes],
            }
        ],
        "results": results,
        "columnKind": "utf16CodeUnits",
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _thresholds(limits: Thresholds, probe: Probe | None) -> tuple[str, ...]:
    return () if probe is None else (f"thresholds: {limits.describe()}",)


def _driver() -> dict[str, Any]:
    rules = [
        {
            "id": rule,
            "name": name,
            "shortDescription": {"text": short},
            "fullDescription": {"text": short},
            "help": {"text": text.replace("`", ""), "markdown": text},
            "defaultConfiguration": {"level": level},
            "properties": {"tags": ["security", "backdoor", "model"], "security-severity": severity},
        }
        for rule, (name, level, severity, short, text) in RULES.items()
    ]
    return {"name": "projclean", "semanticVersion": __version__, "rules": rules}


def _scan(result: ScanResult) -> list[dict[str, Any]]:
    results = _verdict(result.verdict, result.model, result.sha256.get("suspect", ""))
    for line in result.elsewhere[:MOST_ELSEWHERE]:
        what, name = line.rpartition(": ")[0].partition(" ")[::2]
        file = f"{result.model}/{name}" if what == "file" else result.model
        results.append(_result("PC003", line, file, line))
    if len(result.elsewhere) > MOST_ELSEWHERE:
        rest = f"{len(result.elsewhere) - MOST_ELSEWHERE} more changes outside the projector; see the JSON report"
        results.append(_result("PC003", rest, result.model, "more"))
    return results


def _verdict(verdict: Verdict, model: str, subject: str) -> list[dict[str, Any]]:
    if verdict.state == "clean":
        return []
    rule = "PC001" if verdict.state == "suspicious" else "PC002"
    return [_result(rule, verdict.reason, model, subject)]


def _eval(result: EvalResult) -> list[dict[str, Any]]:
    results = []
    for score in result.scores:
        for attack in score.attacks:
            text = (
                f"{score.model}: attack {attack.name} succeeds on {tables.rate(attack.asr)} of triggered items, robust "
                f"accuracy {tables.rate(attack.ra)}, clean accuracy {tables.rate(score.ca)}"
            )
            found = _result("PC004", text, score.model, f"{score.model} {attack.name}")
            results.append(found | {"kind": "informational", "level": "none"})
    return results


def _result(rule: str, text: str, file: str, subject: str) -> dict[str, Any]:
    """A result; its fingerprint stays the same from scan to scan of the same thing."""
    fingerprint = hashlib.sha256(f"{rule} {_uri(file)} {subject}".encode()).hexdigest()
    return {
        "ruleId": rule,
        "ruleIndex": list(RULES).index(rule),
        "level": RULES[rule][1],
        "message": _message(text),
        # Dashboards want a line even of a file that has none.
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(file)}, "region": {"startLine": 1}}}],
        "partialFingerprints": {"projclean/v1": fingerprint},
    }


def _message(text: str) -> dict[str, str]:
    """A message without SARIF's embedded links, `[text](target)`."""
    return {"text": text.replace("](", "] (")}


def _subject(result: Any) -> str:
    if isinstance(result, SeriesResult):
        return _uri(result.steps[-1].scan.model)
    return _uri(result.evalset if isinstance(result, EvalResult) else result.model)


def _uri(path: str) -> str:
    """A relative reference: within the working directory, else the last component alone."""
    full, here = Path(os.path.normpath(Path.cwd() / path)), Path.cwd()  # links stay as they are named
    inside = full != here and full.is_relative_to(here)
    return quote(full.relative_to(here).as_posix() if inside else full.name)
