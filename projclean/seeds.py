"""Seeds that every generator in use takes, and small multiples of them too."""

from __future__ import annotations

from projclean.errors import OptionError

SEEDS = 1 << 32


def check_seed(seed: int) -> None:
    """Refuse a seed out of range with OptionError."""
    if not 0 <= seed < SEEDS:
        raise OptionError(f"--seed {seed}: must lie between 0 and {SEEDS - 1}")
