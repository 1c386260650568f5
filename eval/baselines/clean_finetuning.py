"""Clean fine-tuning: go on training the suspect's projector on clean images, in the hope that it forgets.

As OrthoPurify (arXiv 2610.09941, appendix C.4) runs it as a baseline: AdamW, 2 epochs, there on 1,000 clean samples
with their right answers. Here on the calibration images, with the right answers or with the suspect's own.
"""

from __future__ import annotations

from eval.baselines.inputs import Inputs, Labels
from eval.baselines.training import finetune
from projclean.methods import Weights, base_weights, suspect_weights

#: Steps of 16: two epochs of the published 1,000 samples. The calibration images are seen more often for it.
STEPS = 125


def clean_finetuning(inputs: Inputs, labels: Labels, steps: int = STEPS) -> Weights:
    """The suspect's projector after `steps` of clean fine-tuning."""
    return finetune(inputs, suspect_weights(inputs.update), inputs.labels(labels), steps)


def relearning(inputs: Inputs, labels: Labels, steps: int = STEPS) -> Weights:
    """The *base's* projector after as many steps: the fine-tune learnt again from nothing but the answers."""
    return finetune(inputs, base_weights(inputs.update), inputs.labels(labels), steps)
