"""The lens on ProjLens's claims: what is shipped is what its command writes from what was measured."""

from __future__ import annotations

import json

from eval import claims


def test_the_shipped_tables_are_of_the_shipped_figures():
    rows = json.loads((claims.RESULTS / "lens-claims.json").read_text(encoding="utf-8"))
    assert claims.markdown(rows, claims.RANKS) == (claims.RESULTS / "lens-claims.md").read_text(encoding="utf-8")
    for name, row in rows.items():
        assert row["curves"]["n"] == claims.MORE.get(name, claims.ITEMS)
