"""How the lens report writes models, layers and ranks."""

from __future__ import annotations

from projclean.lens.analysis import LensResult


def short_names(result: LensResult) -> dict[str, str]:
    """Every model's path to its last part where these differ, to itself where not."""
    names = [result.suspect.name, *(each.name for each in result.references)]
    short = {name: name.rstrip("/").rpartition("/")[2] for name in names}
    return short if len(set(short.values())) == len(short) else {name: name for name in names}


def last_part(layer: str) -> str:
    """A layer's name without its parents'."""
    return layer.rpartition(".")[2]


def rank_name(rank: int | None) -> str:
    """A rank; None is the whole update."""
    return "all" if rank is None else str(rank)
