"""Finds the base a model says it was tuned from, on disk or in the Hugging Face cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from projclean.access import NOTHING_MORE, Access
from projclean.adapter import Adapter, is_adapter
from projclean.checkpoint import Checkpoint, open_checkpoint, read_json
from projclean.errors import BaseNotFound, MismatchError
from projclean.hub import locate
from projclean.untrusted import open_regular

CARD_LIMIT = 64 << 10  # bytes of a model card in which its front matter must end
NAME_LIMIT = 500


@dataclass(frozen=True)
class Base:
    """The base, and who named it: the user (`--base`) or a file of the suspect, which an attacker could write."""

    checkpoint: Checkpoint
    named_by: str


def find_base(suspect: Checkpoint | Adapter, given: str | None, access: Access = NOTHING_MORE) -> Base:
    """The base from `--base` (a directory or a hub id), or as the suspect's own files name it.

    Raises BaseNotFound when none is named or the one named is not here.
    """
    if given is not None:
        if not given:
            raise BaseNotFound("--base is empty; name a directory or a hub id, or leave the option out")
        path = locate(given, access)  # not beside the suspect, whose neighbours came with it
        if path is None:
            raise BaseNotFound(
                f"{given}: no such directory, and no such model in the local Hugging Face cache; "
                "check the name, or pass --download to fetch a hub id"
            )
        return Base(_open(path), "--base")
    claims = _claims(suspect)
    for name, source in claims:
        path = locate(name, access, suspect.path.parent)
        # A base inside the suspect is no second witness.
        if path is not None and path.is_dir() and not path.resolve().is_relative_to(suspect.path.resolve()):
            return Base(_open(path), source)
    if claims:
        name, source = claims[0]
        raise BaseNotFound(
            f"{suspect.path}: its {source} names {name!r} as base, which is not here; "
            "pass --base DIR, or --download to fetch it"
        )
    raise BaseNotFound(f"{suspect.path}: nothing in it names the base it was tuned from; pass --base DIR")


def _open(path: Path) -> Checkpoint:
    if path.is_dir() and is_adapter(path):
        raise MismatchError(f"{path}: is an adapter; the base must be a whole model, pass the one it was tuned from")
    return open_checkpoint(path)


def _claims(suspect: Checkpoint | Adapter) -> list[tuple[str, str]]:
    if suspect.path.is_file():
        return []
    found: list[tuple[object, str]] = []
    if os.path.lexists(suspect.path / "adapter_config.json"):
        adapter = read_json(suspect.path / "adapter_config.json", "fix or remove it")
        found.append((adapter.get("base_model_name_or_path"), "adapter_config.json"))
    found += [(name, "model card") for name in _from_card(suspect.path / "README.md")]
    found.append((suspect.config.get("_name_or_path"), "config.json"))
    return [(name, source) for name, source in found if isinstance(name, str) and 0 < len(name) < NAME_LIMIT]


def _from_card(card: Path) -> list[object]:
    """`base_model` of a model card's front matter; nothing when the card cannot be read."""
    import yaml

    try:
        with open_regular(card, card.parent) as handle:
            text = handle.read(CARD_LIMIT).decode("utf-8", errors="replace")
        # BaseLoader knows texts, lists and maps only: merge keys would multiply without end, dates and tags fail.
        front = yaml.load(text.split("---", 2)[1], Loader=yaml.BaseLoader) if text.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError, RecursionError):
        return []
    value = front.get("base_model") if isinstance(front, dict) else None
    return list(value) if isinstance(value, list) else [value]
