"""Paths as reports show them."""

from __future__ import annotations

import re

HUB_SNAPSHOT = re.compile(r"(?:^|.*[/\\])models--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{7})[0-9a-f]*[/\\]?$")


def place(path: str) -> str:
    """A path as given, but a snapshot in the hub's cache as the model's name and revision."""
    found = HUB_SNAPSHOT.match(path)
    return f"{found[1].replace('--', '/')} (revision {found[2]})" if found else path
