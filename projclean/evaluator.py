"""`evaluate`: attack success, clean and robust accuracy of models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from projclean.access import Access
from projclean.case import Progress
from projclean.comparison import Compared, changes, gains
from projclean.errors import ModelError, OptionError
from projclean.evalset import EvalSet, load_evalset
from projclean.evaluation import Score, score
from projclean.live import load_runner
from projclean.metrics import Difference
from projclean.running import running


@dataclass(frozen=True)
class EvalResult(Compared):
    """Scores in the order given, the base first; changes of CA against the first model that is not the base."""

    evalset: str
    max_new_tokens: int
    scores: tuple[Score, ...]
    gains: tuple[float | None, ...]
    changes: tuple[Difference | None, ...]


def evaluate(
    models: Sequence[str | Path],
    evalset: str | Path,
    base: str | None = None,
    projector: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    allow_pickle: bool = False,
    download: bool = False,
) -> EvalResult:
    """Evaluate models, and the base when given, on the items of an EVAL.toml.

    Bare projectors need the base; an adapter may name its own. allow_pickle and download are as in `scan`.
    """
    access = Access(allow_pickle, download)
    loaded = load_evalset(evalset)
    if not models:
        raise OptionError("no model to evaluate; name at least one")
    named = [*([base] if base else []), *models]
    scores = [_scored(model, base, projector, device, access, loaded, progress) for model in named]
    return EvalResult(
        str(loaded.path),
        loaded.max_new_tokens,
        tuple(scores),
        gains(scores, base is not None),
        changes(scores, 1 if base else 0),
    )


def _scored(
    model: str | Path,
    base: str | None,
    projector: str | None,
    device: str | None,
    access: Access,
    loaded: EvalSet,
    progress: Progress | None,
) -> Score:
    """One model's score. The loaded model is gone when this returns, before the next is loaded."""
    tick = (lambda done, total: progress(f"evaluating {model}", done, total)) if progress else None
    try:
        runner = load_runner(model, base, projector, device, access)
        with running(runner.path):
            return score(runner, loaded, str(model), tick)
    except ModelError as error:
        raise ModelError(f"{error}; evaluate it where it can be run") from error
