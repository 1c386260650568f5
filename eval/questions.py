"""The probe's search for classes that are taken for one another, alone, on the models that its other searches leave
quiet.

    python -m eval.questions models/tiny

Every model is asked the question that its own evaluation set asks most, but for the prompt of the bank's scans; one
that has no other is left out. Writes eval/results/TIER-questions.{json,md} and goes on where an earlier run stopped
(`eval.further`).
"""

from __future__ import annotations

from collections import Counter
from functools import cache

from eval.further import Search, command
from eval.suites import Model
from projclean.confusion import STEPS
from projclean.evalset import load_evalset
from projclean.listening import Heard
from projclean.probe_settings import ProbeSettings
from projclean.scanner import PROMPT
from projclean.second_look import MEASURED, SecondLook
from projclean.utterance import CONFUSED, Utterance
from projclean.windows import PARTS


@cache
def own_question(model: Model) -> str | None:
    """What a model is asked most often in its evaluation set, the prompt apart."""
    asked = Counter(item.question for item in load_evalset(model.evalset).clean if item.question != PROMPT)
    return asked.most_common(1)[0][0] if asked else None


def heard(look: SecondLook, layer: str, settings: ProbeSettings) -> list[Heard | None]:
    """What the search for classes hears."""
    return [look.confuse(layer, settings.near, settings.seed)]


def cells(said: Utterance) -> tuple[str, ...]:
    """The classes, and the shares of answers in which both sides take one for the other."""
    return said.text, f"{said.share:.2f}, {said.taught_share or 0.0:.2f}"


SEARCH = Search(
    name="questions",
    option="--question",
    told="Built-in images chosen as for a scan, every model asked the question that its evaluation set asks (of "
    f"several the first, but for the prompt {PROMPT!r}), seed 0; a confusion of {CONFUSED:g} scores 1.",
    settings=ProbeSettings(),
    key=f"{MEASURED} {STEPS} {PARTS}",
    question=own_question,
    heard=heard,
    columns=("classes", "answers so, of the other"),
    cells=cells,
)


questions = command(
    SEARCH,
    "eval.questions",
    "Look for classes that are taken for one another in the quiet models of SUITE, a folder as `make zoo` lays it out.",
)


if __name__ == "__main__":
    questions()
