"""The probe's search for single words, alone, on the models that its other searches leave quiet.

    python -m eval.words models/tiny

Writes eval/results/TIER-words.{json,md} and goes on where an earlier run stopped (`eval.further`).
"""

from __future__ import annotations

from dataclasses import replace

from eval.further import Search, command
from projclean.listening import Heard
from projclean.probe import WORDS
from projclean.probe_settings import ProbeSettings
from projclean.scanner import PROMPT
from projclean.second_look import MEASURED, SecondLook
from projclean.utterance import SWAPS, Utterance


def heard(look: SecondLook, layer: str, settings: ProbeSettings) -> list[Heard]:
    """What the search for words hears."""
    starts = settings.parted_from()
    return look.swap(layer, settings.wide, starts, settings.excite, settings.swapping, settings.words)


def cells(said: Utterance) -> tuple[str, ...]:
    """A word, its probability, and the shares of answers that both sides have it in."""
    return said.text, f"{said.certainty:.2f}", f"{said.share:.2f}, {said.taught_share or 0.0:.2f}"


SEARCH = Search(
    name="words",
    option="--words",
    told=f"Built-in images, the prompt {PROMPT!r}, seed 0; an excess of {SWAPS:g} scores 1.",
    settings=replace(ProbeSettings(), words=WORDS),
    key=str(MEASURED),
    question=lambda model: PROMPT,
    heard=heard,
    columns=("word", "probability", "answers with it, of the other"),
    cells=cells,
)


words = command(
    SEARCH, "eval.words", "Look for single words in the quiet models of SUITE, a folder as `make zoo` lays it out."
)


if __name__ == "__main__":
    words()
