"""The repairs that learn, and those that they are held against, with as many clean images as the papers have.

    python -m eval.thousand models/tiny

OrthoPurify's comparison (arXiv 2610.09941, appendix C.4) gives every defence 1,000 clean samples; a publisher has the
images of the fine-tune. Writes eval/results/TIER-thousand.{json,md} and goes on where an earlier run stopped.
"""

from __future__ import annotations

from functools import cache, partial

from eval.defences import DEFENCES, Defence, distilled
from eval.options import RESULTS
from eval.other_images import Plan, as_given, command, drawn
from eval.scores import heard_in, judged_in, scanned
from eval.words import SEARCH as WORDS
from projclean.first_look import PLAIN
from projclean.repairer import word_by
from projclean.thresholds import shipped

IMAGES = 1000
#: What scans heard of the models, and what `--words` does beside them, all without their triggers.
SCANNED, HEARD = RESULTS / "tiny-detection.json", RESULTS / "tiny-words.json"
#: Rows of the tables that learn from the images, or look at them, and need no labels; without Fine-Pruning, which
#: answers them all anew for every part that it prunes.
AGAIN = ("OrthoPurify, own answers", "clean fine-tuning, own answers", "relearning from the base, own answers")


@cache
def _words() -> dict[str, str]:
    """By model, the word that was heard, where one was: none is looked for where something is heard plainly."""
    scores = scanned(SCANNED, (WORDS.option,))
    rows = {name: row for name, row in judged_in(HEARD, WORDS.name).items() if scores.get(name, PLAIN) < PLAIN}
    found = {name: word_by(heard_in(row), shipped()) for name, row in rows.items()}
    return {name: word for name, word in found.items() if word}


def _word(name: str) -> str:
    return _words().get(name, "")


def _unheard(name: str) -> str | None:
    """The row of a repair that hears nothing, for a model of which no word is heard."""
    return None if _word(name) else FROM_THE_BASE.name


FROM_THE_BASE = Defence("projclean distill from 0", "projclean", partial(distilled, share=0.0, total=IMAGES))
METHODS = (
    *(defence for defence in DEFENCES if defence.name in AGAIN),
    FROM_THE_BASE,
    Defence(
        "projclean distill from 0, words heard", "projclean",
        partial(distilled, share=0.0, total=IMAGES, word=_word), instead=_unheard,
    ),
)  # fmt: skip


def _plan() -> Plan:
    source = partial(drawn, count=IMAGES)
    plain = [(defence, as_given) for defence in DEFENCES if defence.name == "never poisoned"]
    return [*plain, *((method, source) for method in METHODS)]


thousand = command(
    "thousand",
    "Measure the repair of SUITE's models with a thousand clean images of their domain.",
    f"repair with {IMAGES:,} clean images",
    "Images drawn and asked about as the fine-tune's own were, none of them among those that it was trained on or is "
    "measured on. *Own answers* are the suspect's: no label is used. No probe is run.",
    _plan,
)

if __name__ == "__main__":
    thousand()
