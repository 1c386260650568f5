"""Finds the base a model says it was tuned from, on disk or in the local Hugging Face cache. Never online."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from projclean.checkpoint import Checkpoint, open_checkpoint, read_json
from projclean.errors import BaseNotFound
from projclean.untrusted import is_directory, open_regular

CARD_LIMIT = 64 << 10  # bytes of a model card in which its front matter must end
NAME_LIMIT = 500


@dataclass(frozen=True)
class Base:
    """The base, and who named it: the user (`--base`) or a file of the suspect, which an attacker could write."""

    checkpoint: Checkpoint
    named_by: str


def find_base(suspect: Checkpoint, given: str | None) -> Base:
    """The base from `--base` (a directory or a cached hub id), or as the suspect's own files name it.

    Raises BaseNotFound when none is named or the one named is not here.
    """
    if given is not None:
        path = _locate(given, suspect.path.parent)
        if path is None:
            raise BaseNotFound(f"{given}: no such directory, and no such model in the local Hugging Face cache")
        return Base(open_checkpoint(path), "--base")
    claims = _claims(suspect)
    for name, source in claims:
        path = _locate(name, suspect.path.parent)
        # A base inside the suspect is no second witness.
        if path is not None and not path.resolve().is_relative_to(suspect.path.resolve()):
            return Base(open_checkpoint(path), source)
    if claims:
        name, source = claims[0]
        raise BaseNotFound(f"{suspect.path}: its {source} names {name!r} as base, which is not here; pass --base DIR")
    raise BaseNotFound(f"{suspect.path}: nothing in it names the base it was tuned from; pass --base DIR")


def _claims(suspect: Checkpoint) -> list[tuple[str, str]]:
    if suspect.is_bare:
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


def _locate(name: str, beside: Path) -> Path | None:
    """A directory on disk (as given, or beside the suspect), else a snapshot in the hub cache."""
    for path in (Path(name), beside / name):
        if is_directory(path):
            return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError, ValueError):
        return None
