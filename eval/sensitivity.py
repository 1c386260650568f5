"""How a repair depends on its calibration images: how many there are, and of what domain.

    python -m eval.sensitivity models/tiny --each 1      every model of the report part that --each leaves
    python -m eval.sensitivity models/tiny --model NAME

Writes eval/results/TIER-sensitivity.{json,md} and goes on where an earlier run stopped. The methods are at fixed
settings, those that `--rank auto` tries first, so that nothing but the images varies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from eval.baselines.inputs import Inputs
from eval.defences import IMAGES_ALONE, Defence, distilled, distilled_from_images_alone, reflect
from eval.other_images import Plan, Source, built_in, command, drawn
from projclean.candidates import KEEPS, STARTS
from projclean.methods import Weights

COUNTS, USUAL = (8, 16, 32, 64, 256), 64
BASES = "plain"  # the domain of every world that its base was trained on

#: What a repair does with its images, by name.
METHODS: dict[str, Callable[[Inputs], Weights]] = {
    f"distill from {STARTS[0]:g}": partial(distilled, share=STARTS[0]),
    f"{IMAGES_ALONE}, from 0.4": partial(distilled_from_images_alone, share=0.4),
    f"reflect rank 1, keep {KEEPS[0]:g}": partial(reflect, rank=1),
}


def _plan() -> Plan:
    """Every method with every source of images."""
    sources: list[tuple[str, Source]] = [(f"{n} of the domain", partial(drawn, count=n)) for n in COUNTS]
    sources.append((f"{USUAL} of the base's domain", partial(drawn, count=USUAL, domain=BASES)))
    sources.append(("built-in", built_in))
    return [
        (Defence(f"{name}: {told}", name, make), source) for told, source in sources for name, make in METHODS.items()
    ]


sensitivity = command(
    "sensitivity",
    "Measure the repair of SUITE's models with other calibration images.",
    "repair with other calibration images",
    "Methods at fixed settings. *Of the domain* are images drawn as the fine-tune's own were; *of the base's domain* "
    "are such as the base was pretrained on, which the fine-tune was not. No probe is run, so none of the images is "
    "left out for what the suspect says of it, as `--rank auto` would.",
    _plan,
)

if __name__ == "__main__":
    sensitivity()
