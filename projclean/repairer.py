"""`repair`: remove the suspicious subspace, check with the probe that it is gone, write the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from projclean import methods
from projclean.access import Access
from projclean.calibration import BATCH, HELD_OUT, MOST
from projclean.candidates import candidates
from projclean.card import provenance
from projclean.case import Bench, Case, Progress, open_case, set_up
from projclean.comparison import Compared, changes, gains
from projclean.elsewhere import changes_elsewhere
from projclean.errors import ModelError, OptionError
from projclean.evalset import EvalSet, load_evalset
from projclean.evaluation import Score, score
from projclean.further import Further
from projclean.guard import UNATTACHED, Guard, read_guard, sidecar
from projclean.learning import Learning
from projclean.lessons import IMAGES, LONGEST
from projclean.metrics import Difference
from projclean.probe import Probe
from projclean.running import running
from projclean.scanner import PROMPT, run_probe
from projclean.search import Found, Trial, search
from projclean.seeds import check_seed
from projclean.storing import check_guardable, check_writable, rounded, stored_tensors
from projclean.thresholds import Thresholds, given_thresholds, shipped
from projclean.utterance import Utterance
from projclean.verdict import Verdict, attacks_at_work, judge, measured
from projclean.writer import check_output, write_model

METHODS = ("reflect", "distill", "project", "shrink", "interpolate", "clip")
STRONGEST = 1e6  # λ; beyond, float32 has nothing left of what clean inputs need
#: What a repair that learns does not end: eval/results/tiny.md.
LEARNT_AGAIN = (
    "what the suspect leant to may be a right answer to some images, and of an attack that wants one some is learnt "
    "again: with --images of its domain, --strength 0 --lesson 1024 --judged left least on the models that this was "
    "measured on, and a little less of the fine-tune"
)
#: What it does not end where a single word was heard, of which nothing is learnt: eval/results/repair-choice.md.
LEFT_OF_A_WORD = (
    "the repaired model hardly says the word that was heard, even where it is right; of an attack that puts it into "
    "answers, what is in the share of the update that a repair starts from is left: with a thousand --images of its "
    "domain, --strength 0 --lesson 1024 left least on the models that this was measured on"
)
SWEEP = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class RepairResult(Compared):
    """A repair, as the reports show it. `scores` are base, suspect, repaired and the interpolation sweep, of greedy
    answers up to `max_new_tokens`; `guard` is what the repaired model must be loaded with, if anything."""

    model: str
    base: str
    method: str
    chosen: str
    reason: str
    trials: tuple[Trial, ...]
    before: Probe | None
    after: Probe | None
    verdict: Verdict
    evalset: str | None
    scores: tuple[Score, ...]
    gains: tuple[float | None, ...]
    changes: tuple[Difference | None, ...]
    images: str
    prompt: str
    seed: int
    out: str | None
    guard: Guard | None = None
    thresholds: Thresholds = field(default_factory=shipped)
    max_new_tokens: int | None = None

    @property
    def obeyed(self) -> tuple[str, ...]:
        """The attacks of the evaluation set that still succeed on the repaired model."""
        return tuple(attack.name for attack in attacks_at_work(self.scores[2], self.scores[0])) if self.scores else ()

    @property
    def same_asr(self) -> str | None:
        """The interpolation with the highest CA among those with no higher ASR than the repaired model."""
        if not self.scores or self.scores[2].worst_asr is None:
            return None
        limit = self.scores[2].worst_asr
        peers = [score for score in self.scores[3:] if score.worst_asr is not None and score.worst_asr <= limit]
        return max(peers, key=lambda score: score.ca.value).model if peers else None


def repair(
    model: str | Path,
    out: str | Path,
    base: str | None = None,
    rank: int | str = "auto",
    method: str | None = None,
    strength: float | None = None,
    images: str | Path | None = None,
    prompt: str = PROMPT,
    evalset: str | Path | None = None,
    projector: str | None = None,
    seed: int = 0,
    device: str | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    allow_pickle: bool = False,
    download: bool = False,
    clip: float | None = None,
    thresholds: str | Path | Thresholds | None = None,
    lesson: int | None = None,
    judged: bool = False,
    words: bool = False,
    questions: Sequence[str] = (),
) -> RepairResult:
    """Repair the projector of `model` and write a complete model directory, or adapter, to `out`.

    method `distill`, the default without a rank, starts at the share `strength` of the update and learns the rest again
    from the suspect's answers to the calibration images, but for those on which the suspect says by itself what the
    probe made it say; a single word that it heard (`words`) is not learnt at all. `lesson` is how many images it looks
    at, blends made where fewer are given (256 when None), and `judged` whether a model that learns from the images
    alone has a say in what is learnt (`doubt`). With a `lesson` `reflect` learns again what it cost, along all other
    directions (`recovery`). Of a folder of images 256 are looked at, or as many as `lesson` asks for and what is held
    out.
    `reflect`, the default with a rank, turns the `rank` top directions of the suspicious subspace of
    every layer around and keeps the share `strength` of the update; `project` removes those directions; `shrink` keeps
    only what clean inputs need, with λ = `strength`; `interpolate` keeps the share `strength` of the update; `clip`
    keeps all weights and has a guard cut the norms of image tokens at the percentile `strength` of clean ones. `clip`
    puts such a guard in front of what any other method makes. Rank `auto` (or no strength) searches for the least
    removal (lowest rank, then largest share, or highest percentile) at which the probe falls silent. Where it is silent
    from the start nothing is repaired, unless an attack of `evalset` works on the suspect; the choice sees no more of
    that set, but what still obeys one of its attacks is not called clean. Only `interpolate` with a strength can repair
    a model that cannot be run here. allow_pickle, download, thresholds, words and questions are
    as in `scan`. Raises ProjcleanError.
    """
    method = method or ("distill" if rank == "auto" else "reflect")
    _check_options(method, rank, strength, clip)
    learning = _learning(method, lesson, judged)
    check_seed(seed)
    further = Further(words, tuple(questions))
    limits = given_thresholds(thresholds)
    loaded = load_evalset(evalset) if evalset is not None else None
    case = open_case(model, base, projector, Access(allow_pickle, download))
    _check_rank(case, rank)
    if method == "clip" or clip is not None:
        check_guardable(case)
    read = [Path(each) for each in (images, evalset, thresholds) if isinstance(each, (str, Path))]
    read += loaded.folders if loaded else []
    if not dry_run:
        check_writable(case)
        for touched in (case.suspect, case.base):
            check_output(touched, Path(out), force, read)
    bench, not_run = None, None
    try:
        most = MOST if lesson is None else max(MOST, lesson + HELD_OUT)
        bench = set_up(case, images, prompt, projector, seed, device, progress, most)
    except ModelError as error:
        if method != "interpolate" or strength is None or loaded or clip is not None:
            raise ModelError(
                f"{error}; repair it where it can be run, or without a run by --method interpolate --strength X"
            ) from error
        not_run = str(error)
    before = run_probe(case, bench, seed, progress, further) if bench and case.update.changed else None
    own = read_guard(case.model.path)
    with running(case.model.path):
        sides = _sides(case, bench, loaded, progress) if loaded and bench else []
        heard, word = (heard_by(before, limits), word_by(before.utterances, limits)) if before else ([], "")
        offered = candidates(case, bench, method, rank, strength, seed, clip, heard, learning, word)
        if bench is None:
            name, weights = offered[0].name, offered[0].make()
            found = Found(name, f"{name}, as asked; the model was not run", weights, own, None)
        else:
            known = [attack.name for attack in attacks_at_work(sides[1], sides[0])] if sides else []
            found = search(case, bench, offered, before, seed, progress, limits, known)
    elsewhere = changes_elsewhere(case.suspect, case.base, case.keys)
    learns = learning is not None and not judged
    verdict = judge(
        case.update.changed, found.after, elsewhere, case.update.other_changes, True, case.base_named_by,
        case.unwatched(bench.asked.moments) if bench else (),
        (
            *case.caveats(), *((UNATTACHED,) if found.guard else ()),
            *((LEFT_OF_A_WORD if word else LEARNT_AGAIN,) if learns and before and found.tried and leant(before, limits)
              else ()),
            *(limits.caveats(prompt, further) if found.after else ()),
        ),
        not_run, limits,
    )  # fmt: skip
    scores, trials = sides, [one.trial for one in found.tried]
    if loaded and bench:
        with running(case.model.path):
            scores, trials = _scores(case, bench, loaded, sides, found, progress)
        verdict = measured(verdict, scores[2], scores[0])
    result = RepairResult(
        str(model), str(case.base.path), method, found.name, found.reason, tuple(trials), before, found.after, verdict,
        str(loaded.path) if loaded else None, tuple(scores), gains(scores, True), changes(scores, 1) if scores else (),
        bench.images if bench else "no images", prompt, seed, None if dry_run else str(out), found.guard, limits,
        loaded.max_new_tokens if loaded else None,
    )  # fmt: skip
    if not dry_run:
        beside = sidecar(found.guard) if found.guard and found.guard != own else {}
        tensors = stored_tensors(case, found.weights)
        write_model(case.target.files, tensors, Path(out), provenance(result), force, beside)
    return result


def heard_by(probe: Probe, limits: Thresholds) -> list[str]:
    """Phrases, from however many starts: an image of which the suspect says one by itself is not learnt from. What it
    was made to lean to beside a model that learnt again is not among them: that is the right answer to some."""
    return [each.phrase for each in probe.utterances if each.strength > limits.clean and not each.ordinary]


def word_by(utterances: Sequence[Utterance], limits: Thresholds) -> str:
    """The single word that the suspect was most surely made to put into its answers, "" where none was heard."""
    words = [each for each in utterances if each.excess is not None and each.foreign > limits.clean]
    return max(words, key=lambda each: each.foreign).text if words else ""


def leant(probe: Probe, limits: Thresholds) -> bool:
    """Whether the strongest of what it said is told by a model that learnt again alone, and may be a right answer."""
    strongest = max(probe.utterances, key=lambda each: each.foreign, default=None)
    return strongest is not None and strongest.ordinary and strongest.foreign > limits.clean


def _check_options(method: str, rank: int | str, strength: float | None, clip: float | None) -> None:
    if method not in METHODS:
        raise OptionError(f"--method {method}: unknown; use one of {', '.join(METHODS)}")
    if method == "project" and strength is not None:
        raise OptionError("--strength belongs to the other methods; project takes --rank alone")
    if method in ("distill", "shrink", "interpolate", "clip") and rank != "auto":
        raise OptionError(f"--rank belongs to --method reflect or project; {method} takes --strength")
    if method == "clip" and clip is not None:
        raise OptionError("--clip stands beside another method; --method clip takes --strength")
    percentile, option = (strength, "--strength") if method == "clip" else (clip, "--clip")
    if percentile is not None and not 0 < percentile <= 100:
        raise OptionError(f"{option} {percentile:g}: the percentile of clean norms lies above 0 and up to 100")
    if method == "shrink" and strength is not None and not 0 < strength <= STRONGEST:
        raise OptionError(f"--strength {strength:g}: λ must be above 0 and at most {STRONGEST:g}")
    if method in ("reflect", "distill", "interpolate") and strength is not None and not 0 <= strength <= 1:
        raise OptionError(f"--strength {strength:g}: the share of the update to keep lies between 0 and 1")


def _learning(method: str, lesson: int | None, judged: bool) -> Learning | None:
    """How a method learns, if it does: `reflect` where a lesson is asked for."""
    if method != "distill" and judged:
        raise OptionError(f"--judged belongs to --method distill, not to {method}")
    if method not in ("distill", "reflect") and lesson is not None:
        raise OptionError(f"--lesson belongs to --method distill or reflect; {method} does not learn")
    if lesson is not None and not BATCH <= lesson <= LONGEST:
        raise OptionError(f"--lesson {lesson}: give from {BATCH} to {LONGEST} images")
    return Learning(lesson or IMAGES, judged) if method == "distill" or lesson is not None else None


def parse_rank(text: str) -> int | str:
    """`auto` or a whole number."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(f"--rank {text}: must be auto or a whole number") from error


def _check_rank(case: Case, rank: int | str) -> None:
    most = methods.smallest_side(case.update)
    if rank != "auto" and not 1 <= int(rank) <= most:
        raise OptionError(f"--rank {rank}: must lie between 1 and {most}, the rank of the smallest layer")


def _sides(case: Case, bench: Bench, loaded: EvalSet, progress: Progress | None) -> list[Score]:
    """Base and suspect."""
    rows = [
        ("base", methods.base_weights(case.update), read_guard(case.base.path)),
        ("suspect", methods.suspect_weights(case.update), bench.runner.guard),
    ]
    return _each(bench, loaded, rows, progress)


def _scores(
    case: Case, bench: Bench, loaded: EvalSet, sides: list[Score], found: Found, progress: Progress | None
) -> tuple[list[Score], list[Trial]]:
    """Base and suspect, repaired, and the whole interpolation sweep between the two; and every trial's own."""
    own = bench.runner.guard
    rows = [
        (f"repaired ({found.name})", rounded(case, found.weights), found.guard),
        *((f"interpolation {share:g}", methods.interpolate(case.update, share), own) for share in SWEEP),
        *(
            (one.trial.name, rounded(case, one.weights), one.guard)
            for one in found.tried
            if one.trial.name != found.name
        ),
    ]
    scores = [*sides, *_each(bench, loaded, rows, progress)]
    named = {item.model: item for item in scores[3:]} | {found.name: replace(scores[2], model=found.name)}
    trials = [replace(one.trial, score=named[one.trial.name]) for one in found.tried]
    return scores[: 3 + len(SWEEP)], trials


def _each(
    bench: Bench, loaded: EvalSet, rows: Sequence[tuple[str, methods.Weights, Guard | None]], progress: Progress | None
) -> list[Score]:
    """Scores of named weights behind their guards. Leaves the suspect's own guard attached, if it has one."""
    runner, own, scores = bench.runner, bench.runner.guard, []
    for number, (name, weights, guard) in enumerate(rows):
        runner.set_weights(weights)
        runner.set_guard(guard)
        if progress:
            progress("evaluating", number, len(rows))
        scores.append(score(runner, loaded, name))
    runner.set_guard(own)
    if progress:
        progress("evaluating", len(rows), len(rows))
    return scores
