"""What a suspect says of images: by itself, and where it is kept from saying a word."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from projclean.calibration import BATCH, Calibration
from projclean.methods import suspect_weights
from projclean.metrics import normalize
from projclean.model import Runner
from projclean.unsaid import tokens_of
from projclean.update import Update
from projclean.utterance import echoes

Reply = tuple[int, ...]


def own(
    runner: Runner, update: Update, shown: Calibration, max_new_tokens: int, unsaid: Collection[int] = ()
) -> list[Reply]:
    """The suspect's replies (token ids, one an image) without placeholders; none has a token that is `unsaid`. Leaves
    its weights set."""
    runner.set_weights(suspect_weights(update))
    found: list[Reply] = []
    for part in parts(shown):
        batch = runner.prepare(shown.pictures[part], shown.questions[part])
        found += map(runner.led_along, runner.replies(batch, max_new_tokens, unsaid))
    return found


def second(
    runner: Runner, update: Update, shown: Calibration, max_new_tokens: int, word: str, heard: Sequence[str]
) -> list[Reply]:
    """What it says without a `word`; () where that is nothing, holds anything of what was `heard`, or cannot be had,
    since the word is no one token."""
    unsaid = tokens_of(runner, word)
    replies = own(runner, update, shown, max_new_tokens, unsaid) if unsaid else [()] * len(shown.pictures)
    told = [normalize(runner.read(reply)) for reply in replies]
    return [
        () if any(echoes(phrase, text) for phrase in (word, *heard)) else reply
        for reply, text in zip(replies, told, strict=True)
    ]


def parts(shown: Calibration) -> list[slice]:
    """Images that go through the model at a time."""
    return [slice(first, first + BATCH) for first in range(0, len(shown.pictures), BATCH)]
