"""The loss of a model that learns to answer clean images as the suspect does, perhaps with a judge beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch.nn import functional as F

from projclean.calibration import Calibration
from projclean.methods import Weights, suspect_weights
from projclean.model import Runner
from projclean.training import Loss, answer_logits, slice_size
from projclean.unsaid import without
from projclean.update import Update

#: Nats by which the suspect may find a token likelier than a judge does before it is not believed.
CREDIT = 1.0


def imitation(
    runner: Runner,
    update: Update,
    learnt: Calibration,
    replies: Sequence[Sequence[int]],
    batch: int,
    judge: Weights | None = None,
    unsaid: Collection[int] = (),
) -> Loss:
    """Mean KL(suspect ‖ trained) over the tokens of `replies`, the suspect's own (`Runner.replies`), one an image.

    With a `judge` the suspect is believed as far as the judge can follow (`_believed`); tokens that are `unsaid` are
    taught as if it never said them. Up to `batch` images go through the model at a time. Asks suspect and judge about
    all images first, and leaves other weights set.
    """

    def spoken(weights: Weights, rows: Sequence[int]) -> torch.Tensor:
        """Log-probabilities (tokens, vocabulary) of the replies to some images, one after the other."""
        shown, asked = [learnt.pictures[row] for row in rows], [learnt.questions[row] for row in rows]
        return answer_logits(runner, weights, shown, asked, [replies[row] for row in rows]).log_softmax(-1)

    slices = slice_size(runner, batch)
    wanted: list[torch.Tensor] = []  # the suspect's, once an image
    for first in range(0, len(replies), slices):
        rows = range(first, min(first + slices, len(replies)))
        with torch.no_grad():
            said = spoken(suspect_weights(update), rows)
            if judge is not None:
                said = _believed(said, spoken(judge, rows))
            said = without(said, unsaid)
        wanted += said.to("cpu", torch.float16).split([len(replies[row]) for row in rows])

    def loss(weights: Weights, rows: Sequence[int]) -> Iterator[torch.Tensor]:
        total = sum(len(replies[row]) for row in rows)
        for first in range(0, len(rows), slices):
            part = rows[first : first + slices]
            given = spoken(weights, part)
            target = torch.cat([wanted[row] for row in part]).to(given)
            yield F.kl_div(given, target, reduction="sum", log_target=True) / total

    return loss


def _believed(said: torch.Tensor, judged: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the suspect (tokens, vocabulary), of which each counts up to e^`CREDIT` times the judge's;
    what is left over is shared out as the judge would."""
    shared = torch.minimum(said, judged + CREDIT).exp()
    left = (1 - shared.sum(-1, keepdim=True)).clamp(min=0)
    return (shared + left * judged.exp()).clamp(min=1e-7).log().log_softmax(-1)
