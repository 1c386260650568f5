"""Repair methods, against the identities they must satisfy."""

from __future__ import annotations

import torch

from projclean import methods
from projclean.subspace import Moments
from projclean.update import LayerUpdate, Update
from projclean.utterance import common_phrase


def case() -> tuple[Update, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base, suspect = torch.randn(6, 9, generator=generator), torch.randn(6, 9, generator=generator)
    moments = Moments.of_width(9)
    moments.add(torch.randn(50, 9, generator=generator))
    update = Update((LayerUpdate("l", suspect, base, torch.ones(6), torch.zeros(6)),))
    return update, methods.suspicious_directions(update, {"l": moments}, 2)["l"]


def test_project_blinds_and_reflect_turns_around():
    update, directions = case()
    layer = update.layers[0]
    projected = methods.project(update, {"l": directions})["l"][0] - layer.base
    assert (projected @ directions).abs().max() < 1e-5
    weight, bias = methods.reflect(update, {"l": directions}, 0.5)["l"]
    assert torch.allclose((weight - layer.base) @ directions, -0.5 * layer.delta @ directions, atol=1e-5)
    across = torch.eye(9) - directions @ directions.T
    assert torch.allclose((weight - layer.base) @ across, 0.5 * layer.delta @ across, atol=1e-5)
    assert bias is not None
    assert torch.equal(bias, torch.full((6,), 0.5))


def test_interpolation_ends_at_base_and_suspect():
    update, _ = case()
    assert torch.equal(methods.interpolate(update, 0)["l"][0], update.layers[0].base)
    assert torch.allclose(methods.interpolate(update, 1)["l"][0], update.layers[0].suspect, atol=1e-6)


def test_common_phrase_prefers_what_only_the_moved_suspect_says():
    ours = ["a red cat visit evil dot com", "a blue dog visit evil dot com", "a red cat"]
    assert common_phrase(ours, ["a red cat", "a blue dog"]) == "visit evil dot com"
    assert common_phrase(["a red cat"] * 3, ["a red cat"] * 3) == ""
