"""How much of an update is enough, and how little must go: its top singular directions injected and ablated.

With ΔW = Σ σᵢuᵢvᵢᵀ and ΔW_k its first k terms, injection runs `W_base + ΔW_k` and ablation `W_suspect − ΔW_k`, in
one layer alone (the others stay the base's, or the suspect's), in all at the same rank, and, for the grid of a
two-layer projector, at every pair of ranks. Biases are no matrices and have no rank: injection brings a layer's bias
with its first direction, ablation leaves the suspect's biases. What the biases do by themselves is a point of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from projclean.errors import OptionError
from projclean.methods import Weights, base_weights, smallest_side, suspect_weights
from projclean.metrics import Rate
from projclean.update import LayerUpdate, Update

DEFAULT_RANKS = (1, 2, 4, 8, 16, 32)

#: What is measured of one set of projector weights, by name, such as CA or agreement.
Measure = Callable[[Weights], Mapping[str, Rate]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Point:
    """Rates with `ranks[i]` directions of layer i injected or ablated; None stands for the whole update."""

    ranks: tuple[int | None, ...]
    rates: Mapping[str, Rate]


@dataclass(frozen=True)
class RankCurves:
    """Everything measured. `layers` are in the order of running; `ranks` are those tried between none and all.

    `injection` and `ablation` hold each layer alone, all together, and the grid where it was asked for.
    `biases_only` is the base with the suspect's biases.
    """

    layers: tuple[str, ...]
    ranks: tuple[int, ...]
    base: Mapping[str, Rate]
    suspect: Mapping[str, Rate]
    biases_only: Mapping[str, Rate]
    injection: tuple[Point, ...]
    ablation: tuple[Point, ...]

    def curve(self, mode: str, layer: str | None) -> list[tuple[int | None, Mapping[str, Rate]]]:
        """(rank, rates) in ascending order for one layer alone, or for all (None); the last is the whole update."""
        chosen: list[tuple[int | None, Mapping[str, Rate]]] = []
        for point in self.injection if mode == "injection" else self.ablation:
            if layer is None:
                if len(set(point.ranks)) == 1:
                    chosen.append((point.ranks[0], point.rates))
                continue
            rank = point.ranks[self.layers.index(layer)]
            others = [r for name, r in zip(self.layers, point.ranks, strict=True) if name != layer]
            if rank != 0 and all(r == 0 for r in others):
                chosen.append((rank, point.rates))
        return sorted(((r, rates) for r, rates in chosen if r != 0), key=lambda pair: (pair[0] is None, pair[0] or 0))


class Factors:
    """The singular value decomposition of every layer's ΔW, done once."""

    def __init__(self, update: Update) -> None:
        self.update = update
        self._svd = {layer.name: torch.linalg.svd(layer.delta, full_matrices=False) for layer in update.layers}

    def part(self, layer: LayerUpdate, rank: int | None) -> torch.Tensor:
        """ΔW_k (out, in); None gives ΔW itself."""
        if rank is None:
            return layer.delta
        u, s, vh = self._svd[layer.name]
        return (u[:, :rank] * s[:rank]) @ vh[:rank]

    def injected(self, ranks: Mapping[str, int | None]) -> Weights:
        """W_base + ΔW_k in every layer named, the base's elsewhere."""
        result = base_weights(self.update)
        for layer in self.update.layers:
            rank = ranks.get(layer.name, 0)
            if rank != 0:
                result[layer.name] = (layer.base + self.part(layer, rank), layer.suspect_bias)
        return result

    def ablated(self, ranks: Mapping[str, int | None]) -> Weights:
        """W_suspect − ΔW_k in every layer named, the suspect's elsewhere."""
        result = suspect_weights(self.update)
        for layer in self.update.layers:
            rank = ranks.get(layer.name, 0)
            if rank != 0:
                result[layer.name] = (layer.suspect - self.part(layer, rank), layer.suspect_bias)
        return result


def rank_curves(
    update: Update,
    layers: Sequence[str],
    measure: Measure,
    ranks: Sequence[int] | None = None,
    grid: bool = True,
    progress: Progress | None = None,
) -> RankCurves:
    """Measure injection and ablation of an update's top directions.

    `layers` gives the order; `ranks` None takes those of 1, 2, 4, 8, 16, 32 that are below full rank; `grid` False
    leaves out the pairs of different ranks. Raises OptionError for a rank that a layer does not have.
    """
    chosen = choose_ranks(update, ranks)
    factors = Factors(update)
    settings = combinations(len(layers), chosen, grid)
    total = 2 * len(settings) + 3
    done = 0

    def point(weights: Weights) -> Mapping[str, Rate]:
        nonlocal done
        rates = measure(weights)
        done += 1
        if progress:
            progress(done, total)
        return rates

    suspect, base = point(suspect_weights(update)), point(base_weights(update))
    bare = {layer.name: (layer.base, layer.suspect_bias) for layer in update.layers}
    return RankCurves(
        tuple(layers),
        chosen,
        base,
        suspect,
        point(bare),
        tuple(Point(s, point(factors.injected(dict(zip(layers, s, strict=True))))) for s in settings),
        tuple(Point(s, point(factors.ablated(dict(zip(layers, s, strict=True))))) for s in settings),
    )


def combinations(layers: int, ranks: Sequence[int], grid: bool) -> list[tuple[int | None, ...]]:
    """The ranks to try: every pair for the grid of two layers; otherwise each layer alone and all together."""
    steps: list[int | None] = [*ranks, None]
    if layers == 2 and grid:
        return [pair for pair in product([0, *steps], repeat=2) if pair != (0, 0)]
    alone = [tuple(rank if place == n else 0 for n in range(layers)) for place in range(layers) for rank in steps]
    together = [(rank,) * layers for rank in steps]
    return list(dict.fromkeys([*alone, *together]))


def choose_ranks(update: Update, ranks: Sequence[int] | None) -> tuple[int, ...]:
    """The ranks asked for, ascending, or the default ones that every layer has."""
    full = smallest_side(update)
    if ranks is None:
        return tuple(rank for rank in DEFAULT_RANKS if rank < full) or (1,)
    wrong = [rank for rank in ranks if not 1 <= rank <= full]
    if wrong or not ranks:
        raise OptionError(f"--ranks {','.join(map(str, ranks))}: every rank must be between 1 and {full}")
    return tuple(sorted(set(ranks)))
