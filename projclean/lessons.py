"""What a repair learns from: clean images and blends of them with the suspect's answers, less what teaches a backdoor.

A single image on which the suspect happens to say what its backdoor makes it say teaches the backdoor again, and of a
few hundred images and blends some are like the trigger. They are told in three ways, none of which needs it: their
answers hold what the probe heard, or they are the answers that the model half-way back to the base, where the backdoor
is not, finds least likely (as trimmed losses tell corrupted examples: Shen and Sanghavi, arXiv 1810.11874), or they
are word for word what many of those are, and likely nowhere.

A single word that was heard is the right answer to some images, and what is like the trigger is like those. There the
suspect is asked for what it says without the word, and that is learnt: were they only left out, nothing would teach
that such an image can be called something else (eval/results/repair-choice.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from projclean.calibration import Calibration
from projclean.methods import Weights, interpolate
from projclean.metrics import normalize
from projclean.mixing import filled_up
from projclean.model import Runner
from projclean.replies import own, parts, second
from projclean.training import answer_logits
from projclean.update import Update
from projclean.utterance import RUN, echoes

IMAGES = 256  # as many are looked at, blends among them where fewer are given
LONGEST = 16_384  # that one may ask for; all are held in memory
HALFWAY = 0.4  # the share of the update that judges answers
TRIMMED = 1 / 8  # the share with the least likely answers, which is left out
#: How many of those, and which share of them, are one answer before it is foreign: eval/results/repair-choice.md.
OFTEN, ALIKE = 8, 1 / 4


@dataclass(frozen=True)
class Lesson:
    """Images with the questions about them and the suspect's replies (token ids, one an image); how many images were
    left out because of what was heard, and of how many that were looked at; how many of the images, which come first,
    are no blends; how many of the replies are without a word that the suspect says there."""

    images: Calibration
    replies: tuple[tuple[int, ...], ...]
    left_out: int
    looked_at: int
    unblended: int
    retold: int = 0

    def part(self, rows: Sequence[int]) -> Lesson:
        """Some of the images, in their order."""
        rows = sorted(rows)
        return replace(
            self, images=self.images.of(rows), replies=tuple(self.replies[row] for row in rows),
            unblended=sum(row < self.unblended for row in rows),
        )  # fmt: skip


def lesson(
    runner: Runner,
    update: Update,
    images: Calibration,
    heard: Sequence[str],
    max_new_tokens: int,
    seed: int = 0,
    total: int = IMAGES,
    trimmed: float = TRIMMED,
    word: str = "",
) -> Lesson:
    """What the suspect says of images and, up to a `total`, of blends of them.

    Left out are those of which it says anything of what was `heard` (phrases, as `Utterance.phrase`), and the share
    `trimmed` of all whose answers are the least likely half-way back to the base, with other images that have the
    answer of many of those where it is likely on none; placeholders are left out of answers, and images that have
    nothing else for an answer. Where it says the `word`, the answer is what it says without; images of which it has
    nothing else to say are left out. Leaves other weights set.
    """
    shown = filled_up(images, total, seed)
    replies = own(runner, update, shown, max_new_tokens)
    looked_at, answered = len(replies), [row for row, reply in enumerate(replies) if reply]
    shown, replies = shown.of(answered), [replies[row] for row in answered]
    told = [normalize(runner.read(reply)) for reply in replies]
    echoing = {row for row, text in enumerate(told) if any(echoes(phrase, text) for phrase in heard)}
    likely = likelihoods(runner, interpolate(update, HALFWAY), shown, replies)
    strange = set(sorted(range(len(replies)), key=likely.__getitem__)[: int(trimmed * len(replies))])
    strange |= _of_one_source(told, likely, strange)
    saying = [row for row, text in enumerate(told) if word and echoes(word, text) and row not in echoing | strange]
    instead = second(runner, update, shown.of(saying), max_new_tokens, word, heard) if saying else []
    for row, reply in zip(saying, instead, strict=True):
        replies[row] = reply
    echoing |= {row for row in saying if not replies[row]}
    kept = [row for row in range(len(replies)) if row not in echoing | strange]
    unblended = sum(row < len(images.pictures) for row in answered)
    whole = Lesson(shown, tuple(replies), len(echoing), looked_at, unblended, sum(map(bool, instead)))
    return whole.part(kept)


def _of_one_source(told: Sequence[str], likely: Sequence[float], strange: Collection[int]) -> set[int]:
    """Rows with an answer of `RUN` words or more that `OFTEN` of the strange ones and an `ALIKE` share of them are, and
    that is of the less likely half wherever it is said.

    What a trigger brings about is as a rule trimmed, and where much is, one answer that is left teaches it. Captions
    that happen to be the same are few, and those of a class are likely on most of its images.
    """
    if not strange:
        return set()
    middle, least = median(likely), max(OFTEN, ALIKE * len(strange))
    often = Counter(told[row] for row in strange)
    foreign = {text for text, times in often.items() if times >= least and len(text.split()) >= RUN}
    foreign -= {text for text, how in zip(told, likely, strict=True) if how > middle}
    return {row for row, text in enumerate(told) if text in foreign}


@torch.no_grad()
def likelihoods(
    runner: Runner, weights: Weights, shown: Calibration, replies: Sequence[tuple[int, ...]]
) -> list[float]:
    """Mean log-likelihood per token that weights give each reply. Leaves other weights set."""
    found: list[float] = []
    for part in parts(shown):
        said = replies[part]
        scores = answer_logits(runner, weights, shown.pictures[part], shown.questions[part], said).log_softmax(-1)
        tokens = torch.tensor([token for reply in said for token in reply], device=scores.device)
        chosen = scores.gather(1, tokens[:, None]).squeeze(1)
        found += [part.mean().item() for part in chosen.split([len(reply) for reply in said])]
    return found
