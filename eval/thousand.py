"""The repairs that learn, and those that they are held against, with as many clean images as the papers have.

    python -m eval.thousand models/tiny

OrthoPurify's comparison (arXiv 2610.09941, appendix C.4) gives every defence 1,000 clean samples; a publisher has the
images of the fine-tune. Writes eval/results/TIER-thousand.{json,md} and goes on where an earlier run stopped.
"""

from __future__ import annotations

from functools import partial

from eval.defences import DEFENCES, Defence, distilled, recovered
from eval.other_images import Plan, as_given, command, drawn

IMAGES = 1000
#: Rows of the tables that learn from the images, or look at them, and need no labels; without Fine-Pruning, which
#: answers them all anew for every part that it prunes.
AGAIN = ("OrthoPurify, own answers", "clean fine-tuning, own answers", "relearning from the base, own answers")
METHODS = (
    *(defence for defence in DEFENCES if defence.name in AGAIN),
    Defence("projclean distill from 0", "projclean", partial(distilled, share=0.0, total=IMAGES)),
)
#: Directions are told from the images that a model came with, and what turning them costs is learnt from a thousand.
TURNED = Defence(
    "projclean reflect rank 1, keep 0.9, learnt again", "projclean", partial(recovered, rank=1, keep=0.9, total=IMAGES)
)


def _plan() -> Plan:
    source, unwatched = partial(drawn, count=IMAGES), partial(drawn, count=IMAGES, watched=False)
    plain = [(defence, as_given) for defence in DEFENCES if defence.name == "never poisoned"]
    return [*plain, *((method, source) for method in METHODS), (TURNED, unwatched)]


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
