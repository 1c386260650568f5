"""Evaluation sets as users write them: an EVAL.toml beside folders of images with metadata.jsonl.

[clean]
images = "clean"           # folder with metadata.jsonl: {"file_name": …, "question": …, "answer": …} a line
match = "exact"            # exact, contains, prefix or suffix

[[attack]]
name = "badnet"
images = "triggered"       # triggered images, with the questions and the *right* answers
target = "you have been hacked"
match = "contains"

[generate]
max_new_tokens = 16
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projclean.errors import EvalError
from projclean.metrics import RULES

if TYPE_CHECKING:
    from PIL.Image import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Item:
    """One image, the question about it and the right answer."""

    file: Path
    question: str
    answer: str

    def image(self) -> Image:
        from PIL import Image as pil
        from PIL import UnidentifiedImageError

        try:
            with pil.open(self.file) as opened:
                return opened.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise EvalError(f"{self.file}: cannot be read as an image; drop its line in metadata.jsonl") from error


@dataclass(frozen=True)
class Attack:
    """Triggered items and the rule by which an answer counts as a success of the attack."""

    name: str
    items: tuple[Item, ...]
    target: str
    match: str


@dataclass(frozen=True)
class EvalSet:
    """A clean set and any number of attacks."""

    path: Path
    clean: tuple[Item, ...]
    match: str
    attacks: tuple[Attack, ...]
    max_new_tokens: int = 32


def load_evalset(path: str | Path) -> EvalSet:
    """Read an EVAL.toml and the metadata it names; images are opened when they are used."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EvalError(f"{path}: no such evaluation file") from error
    except (OSError, ValueError) as error:
        raise EvalError(f"{path}: cannot be read as TOML ({error})") from error
    unknown = sorted(set(data) - {"clean", "attack", "generate"})
    if unknown:
        raise EvalError(f"{path}: unknown section [{unknown[0]}]; it takes [clean], [[attack]] and [generate]")
    clean = data.get("clean")
    if not isinstance(clean, dict):
        raise EvalError(f"{path}: has no [clean] section")
    attacks = data.get("attack", [])
    if not isinstance(attacks, list) or not all(isinstance(attack, dict) for attack in attacks):
        raise EvalError(f"{path}: attacks are written as [[attack]]")
    tokens = data.get("generate", {}).get("max_new_tokens", 32)
    if not isinstance(tokens, int) or tokens < 1:
        raise EvalError(f"{path}: max_new_tokens must be a whole number above 0")
    return EvalSet(
        path,
        _items(path, clean, "clean"),
        _rule(path, clean, "clean"),
        tuple(
            Attack(
                str(attack.get("name", f"attack {number}")),
                _items(path, attack, "attack"),
                _text(path, attack, "target", "attack"),
                _rule(path, attack, "attack", "contains"),
            )
            for number, attack in enumerate(attacks, 1)
        ),
        tokens,
    )


def _items(path: Path, section: dict[str, Any], name: str) -> tuple[Item, ...]:
    folder = path.parent / _text(path, section, "images", name)
    metadata = folder / "metadata.jsonl"
    try:
        lines = metadata.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EvalError(f"{metadata}: cannot be read; every folder of {path.name} needs one") from error
    items = []
    for number, line in enumerate(filter(str.strip, lines), 1):
        try:
            row = json.loads(line)
            item = Item(folder / row["file_name"], row["question"], row["answer"])
        except (ValueError, TypeError, KeyError) as error:
            raise EvalError(f"{metadata}: line {number} needs file_name, question and answer") from error
        items.append(item)
    if not items:
        raise EvalError(f"{metadata}: lists no items")
    return tuple(items)


def _text(path: Path, section: dict[str, Any], key: str, name: str) -> str:
    value = section.get(key)
    if not isinstance(value, str) or not value.strip():
        raise EvalError(f'{path}: [{name}] needs {key} = "…"')
    return value


def _rule(path: Path, section: dict[str, Any], name: str, default: str = "exact") -> str:
    rule = section.get("match", default)
    if rule not in RULES:
        raise EvalError(f"{path}: [{name}] match = {rule!r}; use one of {', '.join(RULES)}")
    return str(rule)
