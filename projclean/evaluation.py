"""Runs a model on an evaluation set: attack success, clean and robust accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from projclean.evalset import EvalSet, Item
from projclean.intervals import few_items
from projclean.metrics import Rate, matches, rate
from projclean.model import Runner

BATCH = 50

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AttackScore:
    """One attack on one model. `hits` and `right` are per item: target said, original label given."""

    name: str
    asr: Rate
    ra: Rate
    hits: tuple[bool, ...]
    right: tuple[bool, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """One model on one evaluation set; `correct` is per clean item, `guarded` is whether it ran behind a guard."""

    model: str
    ca: Rate
    correct: tuple[bool, ...]
    attacks: tuple[AttackScore, ...]
    examples: tuple[str, ...]
    guarded: bool = False

    @property
    def worst_asr(self) -> float | None:
        return max((attack.asr.value for attack in self.attacks), default=None)

    @property
    def warnings(self) -> list[str]:
        warning = few_items(min([self.ca.n, *(attack.asr.n for attack in self.attacks)]))
        return [warning] if warning else []


def score(runner: Runner, evalset: EvalSet, name: str, progress: Progress | None = None) -> Score:
    """Evaluate the model as it stands in `runner`, greedily, up to `evalset.max_new_tokens` tokens."""
    total = len(evalset.clean) + sum(len(attack.items) for attack in evalset.attacks)
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    answers = _ask(runner, evalset.clean, evalset.max_new_tokens, tick)
    correct = tuple(matches(a, item.answer, evalset.match) for a, item in zip(answers, evalset.clean, strict=True))
    attacks = []
    for attack in evalset.attacks:
        said = _ask(runner, attack.items, evalset.max_new_tokens, tick)
        wanted = [item.target or attack.target for item in attack.items]
        hits = tuple(matches(a, text, attack.match) for a, text in zip(said, wanted, strict=True))
        right = tuple(matches(a, item.answer, evalset.match) for a, item in zip(said, attack.items, strict=True))
        attacks.append(AttackScore(attack.name, rate(hits), rate(right), hits, right, tuple(said[:3])))
    return Score(name, rate(correct), correct, tuple(attacks), tuple(answers[:3]), runner.guard is not None)


def _ask(runner: Runner, items: Sequence[Item], tokens: int, tick: Callable[[int], None]) -> list[str]:
    answers = []
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        batch = runner.prepare([item.image() for item in part], [item.question for item in part])
        answers += runner.answers(batch, tokens)
        tick(len(part))
    return answers
