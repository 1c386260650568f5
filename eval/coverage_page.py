"""docs/projectors.md: the table of model types that eval.coverage fills, beside what eval.peers found."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from eval.peers import RESULTS as PEERS

DOCUMENT = Path(__file__).parents[1] / "docs" / "projectors.md"
LAYOUTS = tuple(product(("saved", "in memory"), (False, True)))  # names, sharded


@dataclass(frozen=True)
class Row:
    """What was found for one model type; `results` holds (scanned, repaired) in the order of LAYOUTS."""

    model_type: str
    family: str
    layers: int
    kinds: str
    guess: str
    results: tuple[tuple[bool, bool], ...]

    @property
    def works(self) -> bool:
        return all(scanned and repaired for scanned, repaired in self.results)

    def __str__(self) -> str:
        cells = [f"{_word(scanned)} / {_word(repaired)}" for scanned, repaired in self.results]
        return (
            f"| {self.model_type} | {self.family} | {self.layers} | {self.kinds} | {' | '.join(cells)} | {self.guess} |"
        )


def document(rows: list[Row]) -> str:
    """The whole page."""
    working = sum(row.works for row in rows)
    guesses = ", ".join(f"{word} {count}" for word, count in Counter(row.guess for row in rows).most_common())
    head = [f"{names}{', sharded' if sharded else ''}: scan / repair" for names, sharded in LAYOUTS]
    return f"""# Model types whose projector is found and repaired

Written by `python -m eval.coverage`; the tests check that it is current.

{working} of {len(rows)} model types work in every layout. Each was a tiny random model in float32 with a rank-2 update
planted in every layer of its projector, saved under the names transformers writes (saved) and under those in memory,
in one file and in shards; its base was saved under saved names, in one file.

- scan: exactly the projector's layers were found and every planted subspace was recovered to one degree.
- repair: with the subspace projected out and the directory written, the model loads through its own
  `from_pretrained`, its layers are the base's again, and no byte outside the projector changed.

The models were not asked anything; `tests/test_hooks.py` runs some of them and checks that layer inputs are seen.

The last column is what the guess from shapes alone would give, were the type unknown: {guesses}.
Audio models have no vision tower, so nothing is guessed there.

{peers()}
## Every type

| model type | found as | layers | kinds | {" | ".join(head)} | guess |
|---|---|---|---|{"---|" * len(head)}---|
""" + "".join(f"{row}\n" for row in rows)


def peers() -> str:
    """What `python -m eval.peers` found of other tools."""
    found = json.loads(PEERS.read_text(encoding="utf-8"))
    named = found["mergekit_named"]
    return f"""## Beside other tools

The same {found["types"]} model types, by `python -m eval.peers WHEEL` (mergekit's wheel). Neither tool looks for
backdoors; this compares only whether the projector is known.

| tool | what it knows of the projector | types |
|---|---|---|
| PEFT {found["peft"]}, default LoRA targets | the type at all | {found["peft_default_targets"]} |
| | every weight matrix of the projector | {found["peft_default_whole_projector"]} |
| PEFT {found["peft"]}, `"all-linear"` | every matrix of it, among all linear layers of the model | \
{found["peft_all_linear_whole_projector"]} |
| mergekit {found["mergekit"]}, shipped definitions | the projector as a module of its own | {len(named)} |

PEFT's "all-linear" does not reach convolutions, bare parameters, tables and fused attention weights. mergekit's
definitions are those of {", ".join(named)};
for other types it infers modules from the numbered layers in a checkpoint's names and does not name the projector.
"""


def _word(good: bool) -> str:
    return "yes" if good else "no"
