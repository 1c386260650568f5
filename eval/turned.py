"""What turning directions around costs, learnt again from a thousand clean images.

    python -m eval.turned models/smol

Writes eval/results/TIER-turned.{json,md} and goes on where an earlier run stopped.
"""

from __future__ import annotations

from functools import partial

from eval.defences import Defence, recovered
from eval.other_images import Plan, command, drawn
from eval.thousand import IMAGES

#: Directions are told from the images that a model came with; these are learnt from.
TURNED = Defence(
    "projclean reflect rank 1, keep 0.9, learnt again", "projclean", partial(recovered, rank=1, keep=0.9, total=IMAGES)
)


def _plan() -> Plan:
    return [(TURNED, partial(drawn, count=IMAGES, watched=False))]


turned = command(
    "turned",
    "Measure what is learnt again after SUITE's models had directions turned around.",
    f"turned around, and learnt again from {IMAGES:,} clean images",
    "Images drawn and asked about as the fine-tune's own were, none of them among those that it was trained on or is "
    "measured on; no label is used and no probe is run. Directions are told from the images that a model came with; "
    "without what is learnt then the rows are those of `projclean reflect rank 1, keep 0.9` in the tier's own page.",
    _plan,
)

if __name__ == "__main__":
    turned()
