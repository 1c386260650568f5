"""How the lens report writes models, layers and ranks."""

from __future__ import annotations

from collections.abc import Mapping

from projclean.lens.analysis import LensResult
from projclean.metrics import Rate


def short_names(result: LensResult) -> dict[str, str]:
    """Every model's path to its last part where these differ, to itself where not."""
    names = [result.suspect.name, *(each.name for each in result.references)]
    short = {name: name.rstrip("/").rpartition("/")[2] for name in names}
    return short if len(set(short.values())) == len(short) else {name: name for name in names}


def last_part(layer: str) -> str:
    """A layer's name without its parents'."""
    return layer.rpartition(".")[2]


def items_of(rates: Mapping[str, Rate]) -> str:
    """How many items each of some rates rests on."""
    sizes = sorted({rate.n for rate in rates.values()})
    return f"n = {sizes[0]} a set" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]} a set"


def rank_name(rank: int | None) -> str:
    """A rank; None is the whole update."""
    return "all" if rank is None else str(rank)
