"""Visual attention entropy (Ge et al., "EntropyScan", arXiv 2605.15711).

How the position that predicts the first answer token spreads its attention over the image tokens, in the first layers
of the language model: the Tsallis entropy (1 − Σ p^q)/(q − 1) of the attention, averaged over heads and normalised over
the image tokens, is computed for every clean image; a backdoor is said to disturb it. The score is the absolute z-score
of the suspect's mean against the base's distribution on the same images, averaged over the layers. The paper's
reference is a benign model; here the base is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from projclean.methods import base_weights, suspect_weights
from projclean.model import Prepared, Runner
from projclean.update import Update

LAYERS, ORDER = 3, 2.0


def entropies(runner: Runner, batches: Sequence[Prepared]) -> torch.Tensor:
    """Tsallis entropies (images, LAYERS) of the model as it stands in the runner."""
    token = runner.model.config.image_token_id
    implementation = runner.model.config._attn_implementation
    runner.model.set_attn_implementation("eager")  # the fused kernels do not tell their attention
    rows = []
    try:
        with torch.no_grad():
            for batch in batches:
                out = runner.model(**batch.inputs, output_attentions=True, logits_to_keep=1, use_cache=False)
                image = batch.inputs["input_ids"] == token
                rows.append(torch.stack([_spread(layer, image) for layer in out.attentions[:LAYERS]], 1))
    finally:
        runner.model.set_attn_implementation(implementation)
    return torch.cat(rows)


def _spread(attention: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Tsallis entropy (n,) of attention (n, heads, queries, keys) from the last query to the image tokens (n, keys)."""
    given = attention[:, :, -1].float().mean(1) * image
    given = given / given.sum(-1, keepdim=True).clamp_min(1e-12)
    return (1 - given.pow(ORDER).sum(-1)) / (ORDER - 1)


def attention_score(runner: Runner, update: Update, batches: Sequence[Prepared]) -> float:
    """Mean over layers of |z| of the suspect's mean entropy among the base's. Leaves the suspect's weights set."""
    runner.set_weights(base_weights(update))
    reference = entropies(runner, batches)
    runner.set_weights(suspect_weights(update))
    ours = entropies(runner, batches)
    return ((ours.mean(0) - reference.mean(0)).abs() / reference.std(0).clamp_min(1e-12)).mean().item()
