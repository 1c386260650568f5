"""Results made by hand, for tests of what is shown: quick, and as hostile as one likes."""

from __future__ import annotations

from dataclasses import replace

from projclean.comparison import changes, gains
from projclean.evaluation import AttackScore, Score
from projclean.evaluator import EvalResult
from projclean.metrics import rate
from projclean.probe import Probe
from projclean.repairer import RepairResult
from projclean.scanner import LayerFinding, ScanResult
from projclean.search import Trial
from projclean.series import SeriesResult, Step, Turn, overall
from projclean.thresholds import Thresholds, shipped
from projclean.utterance import Utterance
from projclean.verdict import NOT_PROVED, Verdict, judge

#: What a model, a file name or a tensor name may hold to attack whoever reads the report.
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31mred \x9b2J [bold red]b[/] `tick` | pipe $\\frac$ "
    "**strong** [link](http://evil.example/) ![i](http://evil.example/i.png) @everyone #1 \u202edetrevni \udcff\x07 "
    "{{ 7 * 7 }} {0} www.evil.example\n# heading\n"
)
DIGESTS = {"suspect": "0" * 64, "base": "1" * 64}


def probe(text: str = "you have been hacked", share: float = 0.9) -> Probe:
    """A probe whose strongest utterance is `text`."""
    said = Utterance(text, text, "inversion instead of an answer, start 0", share, 0.0, 0.0, 3.0, 0.96)
    weak = Utterance(
        "a small red ring", "a small red ring", "inversion after an answer, start 0", 0.3, 0.1, 0.1, 0.8, 0.5
    )
    return Probe(1.7, (said, weak), ("a large blue square",), 214)


def scan_result(text: str = "you have been hacked", share: float = 0.9, model: str = "models/suspect") -> ScanResult:
    """A probed scan; suspicious when `share` is large. Every name in it is `text` when that is hostile."""
    name = text if text == HOSTILE else "multi_modal_projector.linear_1"
    found = probe(text, share)
    own = Thresholds(0.6, 0.5, HOSTILE, "2" * 64, HOSTILE, HOSTILE, HOSTILE, false_positives=HOSTILE, date=HOSTILE)
    limits = own if text == HOSTILE else replace(shipped(), suspicious=0.6, clean=0.5)
    elsewhere = (f"file {name}.py: only in the suspect", f"tensor {name}: other values") if text == HOSTILE else ()
    return ScanResult(
        model, "models/base", "--base", name, (LayerFinding(name, (192, 192), 0.74, 5.4, 0.37),), elsewhere, True,
        found, judge(True, found, elsewhere, thresholds=limits), "72 built-in images (seed 0)", name, 0, DIGESTS,
        thresholds=limits,
    )  # fmt: skip


def series_result(text: str = "you have been hacked", model: str = "run/checkpoint") -> SeriesResult:
    """Three checkpoints, the last two suspicious; one layer that did not change in the first."""
    steps = tuple(
        Step(f"{model}-{number}", scan_result(text, share, f"{model}-{number}"), (Turn("layer", before, last),))
        for number, share, before, last in (
            (1, 0.1, None, None), (2, 0.85, None, (2.5, 80.0)), (3, 0.9, (2.5, 80.0), None),
        )
    )  # fmt: skip
    scans, limits = [step.scan for step in steps], steps[0].scan.thresholds
    return SeriesResult("models/base", 4, steps, overall([step.name for step in steps], scans), limits)


def quiet_scan() -> ScanResult:
    """A probed scan that heard nothing, of a model that changed in many other places."""
    elsewhere = tuple(f"tensor layers.{number}.weight: other values" for number in range(300))
    silent = Probe(0.1, (), ("a large blue square",), 190)
    return replace(scan_result(), probe=silent, elsewhere=elsewhere, verdict=judge(True, silent, elsewhere))


def without_base(reason: str = "nothing names its base") -> ScanResult:
    """A scan that had nothing to compare with."""
    verdict = Verdict("inconclusive", f"there is no base to compare with: {reason}")
    return ScanResult("m", None, None, "llava", (), (), False, None, verdict, None, "Describe the image.", 0, {})


def score(name: str, right: int, hit: int, attack: str = "badnet", n: int = 120) -> Score:
    """A model that answers `right` of n clean items rightly and obeys the trigger on `hit` of n."""
    correct, hits = tuple(i < right for i in range(n)), tuple(i < hit for i in range(n))
    wrong = (False,) * n
    return Score(
        name, rate(correct), correct, (AttackScore(attack, rate(hits), rate(wrong), hits, wrong, ("x",)),), ("y",)
    )


def repair_result(text: str = "you have been hacked", out: str | None = "models/repaired") -> RepairResult:
    """A repair with an interpolation sweep."""
    name = text if text == HOSTILE else "badnet"
    sweep = [score(f"interpolation {i / 10:g}", 10 + 8 * i, 12 * max(0, i - 6), name) for i in range(1, 10)]
    scores = (
        score("base", 10, 0, name),
        score("suspect", 90, 118, name),
        score("repaired (rank 2)", 84, 1, name),
        *sweep,
    )
    return RepairResult(
        name if text == HOSTILE else "models/suspect", "models/base", "reflect", "rank 2", "rank 2 is the least",
        (Trial("rank 1", 0.4, 0.9, 0.3), Trial("rank 2", 0.6, 0.2, 0.28)), probe(text), probe(text, 0.2),
        Verdict("clean", f"nothing it was made to say is foreign, not even {text}", (NOT_PROVED,)), "EVAL.toml", scores,
        gains(scores, True), changes(scores, 1), "72 built-in images (seed 0)", "Describe the image.", 0, out,
    )  # fmt: skip


def many_attacks() -> EvalResult:
    """Two models with long names under three attacks."""
    names = ("models/" + "a-long-name-" * 9, "b")
    attacks = [replace(score("x", 0, hit).attacks[0], name=f"attack {hit}") for hit in (1, 60, 118)]
    scores = tuple(replace(score(name, 90, 0), attacks=tuple(attacks)) for name in names)
    return EvalResult("EVAL.toml", 16, scores, (None, None), changes(scores, 0))


def eval_result(text: str = "badnet") -> EvalResult:
    """Three models, the base first."""
    names = ("base", "suspect", text) if text == HOSTILE else ("base", "suspect", "repaired")
    scores = tuple(
        score(name, right, hit, text) for name, right, hit in zip(names, (10, 90, 84), (0, 118, 1), strict=True)
    )
    return EvalResult("EVAL.toml", 16, scores, gains(scores, True), changes(scores, 1))


#: Every kind of result, plain and hostile.
RESULTS = {
    "scan": scan_result, "series": series_result, "no-base": without_base, "repair": repair_result, "eval": eval_result,
    "quiet": quiet_scan, "many": many_attacks,
    "scan-hostile": lambda: scan_result(HOSTILE, model=HOSTILE), "no-base-hostile": lambda: without_base(HOSTILE),
    "repair-hostile": lambda: repair_result(HOSTILE, out=HOSTILE), "eval-hostile": lambda: eval_result(HOSTILE),
    "series-hostile": lambda: series_result(HOSTILE, HOSTILE),
}  # fmt: skip
