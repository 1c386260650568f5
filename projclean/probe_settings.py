"""How hard a probe looks."""

from __future__ import annotations

from dataclasses import dataclass

#: How far the seeds of further starts lie from those of the first (torch's generator sees 32 bits of one).
FURTHER = 1 << 31


@dataclass(frozen=True)
class ProbeSettings:
    """How hard to probe: the radius of a move as a share of the pixels' root mean square, how many random starts and
    how many more where those do not agree on the strongest utterance, the steps that excite the update before each,
    those that part the models after it, and those of a round in which a whole text is fitted. For the second look: the
    images and blends that a model learns from again and its steps; and to part it from the suspect the radius, the
    random starts (none: there is no second look) and the steps of each; and how many single words are looked for from
    those starts (none unless asked), the radius for them and the steps of those that go on."""

    budget: float = 0.4
    starts: int = 2
    more: int = 2
    excite: int = 16
    steps: int = 14
    whole: int = 8
    taught: int = 256
    learning: int = 240
    near: float = 0.15
    partings: int = 4
    parting: int = 32
    words: int = 0
    wide: float = 0.3
    swapping: int = 24
    max_new_tokens: int = 20
    seed: int = 0

    def parted_from(self) -> range:
        """The seeds of the second look's random starts."""
        return range(self.seed * self.partings, (self.seed + 1) * self.partings)

    def first_starts(self) -> range:
        """The seeds of the first look's random starts."""
        return range(self.seed * self.starts, (self.seed + 1) * self.starts)

    def further_starts(self) -> range:
        """The seeds of those that it takes where it needs more."""
        return range(FURTHER + self.seed * self.more, FURTHER + (self.seed + 1) * self.more)
