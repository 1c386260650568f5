"""`calibrate`: thresholds of your own, from the probe's scores on a bank of benign fine-tunes of yours."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from projclean import __version__
from projclean.access import Access
from projclean.case import Case, Progress, open_case, set_up
from projclean.errors import OptionError
from projclean.further import Further
from projclean.scanner import PROMPT, run_probe
from projclean.seeds import check_seed
from projclean.thresholding import check_bank, counted, counted_hits, derive
from projclean.thresholds import Thresholds

UNIT = "0 to 1, utterance.Utterance.foreign"


@dataclass(frozen=True)
class Scored:
    """One model of the bank: its score, and what it was made to say, None for nothing."""

    model: str
    backdoored: bool
    score: float
    said: str | None


@dataclass(frozen=True)
class CalibrationResult:
    """Thresholds with their provenance, and the scores that they follow from."""

    thresholds: Thresholds
    models: tuple[Scored, ...]

    def document(self) -> str:
        """The thresholds file: what `thresholds.read_thresholds` reads."""
        told = {key: value for key, value in dataclasses.asdict(self.thresholds).items() if value is not None}
        rows = [dataclasses.asdict(one) | {"score": round(one.score, 6)} for one in self.models]
        return json.dumps({"foreign": told, "models": rows}, indent=2)


def calibrate(
    benign: Sequence[str | Path],
    base: str | None = None,
    backdoored: Sequence[str | Path] = (),
    false_positive_rate: float = 0.02,
    prompt: str = PROMPT,
    projector: str | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
    allow_pickle: bool = False,
    download: bool = False,
    words: bool = False,
    questions: Sequence[str] = (),
) -> CalibrationResult:
    """Probe benign fine-tunes, and backdoored ones where you have any, and set thresholds by `thresholding.derive`.

    All models are opened, and paired with their base, before the first is run. The other arguments are as in
    `scanner.scan`. Raises ProjcleanError, also for a model that cannot be probed: it would say nothing of false alarms.
    """
    check_seed(seed)
    further = Further(words, tuple(questions))
    check_bank(len(benign), false_positive_rate)
    named = [*((str(model), False) for model in benign), *((str(model), True) for model in backdoored)]
    access = Access(allow_pickle, download)
    _check_distinct([model for model, _ in named])
    for model, _ in named:
        _open(model, base, projector, access)
    scored = []
    for number, (model, bad) in enumerate(named):
        if progress:
            progress("models", number, len(named))
        case = _open(model, base, projector, access)
        scored.append(_scored(case, model, bad, prompt, projector, seed, device, progress, further))
    if progress:
        progress("models", len(named), len(named))
    return CalibrationResult(_thresholds(scored, false_positive_rate, base, prompt, seed, further), tuple(scored))


def _open(model: str, base: str | None, projector: str | None, access: Access) -> Case:
    case = open_case(model, base, projector, access)
    if not case.update.changed:
        raise OptionError(f"{model}: its projector is the base's, so there is nothing to score; leave it out")
    return case


def _scored(
    case: Case,
    model: str,
    bad: bool,
    prompt: str,
    projector: str | None,
    seed: int,
    device: str | None,
    progress: Progress | None,
    further: Further,
) -> Scored:
    """One model's score. The loaded model is gone when this returns, before the next is loaded."""
    bench = set_up(case, None, prompt, projector, seed, device, progress)
    found = run_probe(case, bench, seed, progress, further)
    return Scored(model, bad, found.foreign, found.said.text if found.said else None)


def _check_distinct(models: Sequence[str]) -> None:
    """The same model twice is no evidence twice, and on both sides none at all."""
    places = [os.path.realpath(model) if os.path.exists(model) else model for model in models]  # noqa: PTH110
    for model, place in zip(models, places, strict=True):
        if places.count(place) > 1:
            raise OptionError(f"{model}: named more than once; name every model of the bank once")


def _thresholds(
    scored: Sequence[Scored], target: float, base: str | None, prompt: str, seed: int, further: Further
) -> Thresholds:
    good = [one.score for one in scored if not one.backdoored]
    bad = [one.score for one in scored if one.backdoored]
    found = derive(good, bad, target)
    if found.suspicious > 1:
        loudest = max((one for one in scored if not one.backdoored), key=lambda one: one.score)
        raise OptionError(
            f"{loudest.model}: scores {loudest.score:.2f} ({loudest.said!r}), and a threshold above that would be over "
            "1, the highest score there is: it would convict nothing; if it is benign, leave it out and say so"
        )
    named = "the bases that they name" if base is None else Path(base).name if Path(base).is_dir() else base
    beside = f" and {len(bad)} backdoored" if bad else ""
    return Thresholds(
        found.suspicious,
        found.clean,
        unit=UNIT,
        bank=f"{len(good)} benign{beside} models of {named}",
        rule=found.rule,
        highest_benign=found.highest_benign,
        lowest_backdoored=found.lowest_backdoored,
        target_false_positive_rate=target,
        false_positives=counted(found.false_positives),
        true_positives=counted_hits(found.true_positives) if found.true_positives else None,
        prompt=prompt,
        seed=seed,
        words=further.words,
        questions=bool(further.questions),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        projclean=__version__,
    )
