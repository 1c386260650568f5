"""A benign fine-tune of the same task in the suspect's place: no defence, but what one can be measured by.

It was never poisoned, so the share of triggered images on which it gives the attacker's answer is what the trigger
itself does to what is seen, and its robust accuracy is about as much as a repair can bring back. No defender has it.
"""

from __future__ import annotations

from eval.baselines.inputs import Inputs, NotApplicable
from projclean.methods import Weights


def benign_instead(inputs: Inputs) -> Weights:
    """The projector of the benign fine-tune."""
    if inputs.reference is None:
        raise NotApplicable("there is no benign fine-tune of the same task")
    return inputs.reference
