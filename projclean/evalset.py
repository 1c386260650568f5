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

from projclean.errors import EvalError, ImagesError
from projclean.images import read_image
from projclean.metrics import RULES
from projclean.untrusted import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOML_LIMIT = 256 << 10  # bytes
METADATA_LIMIT = 64 << 20  # bytes; 100,000 questions make about 10 MiB
TOKENS_LIMIT = 4096


@dataclass(frozen=True)
class Item:
    """One image, the question about it and the right answer."""

    file: Path
    question: str
    answer: str

    def image(self) -> Image:
        try:
            return read_image(self.file)
        except ImagesError as error:
            raise EvalError(f"{error}, or drop its line in metadata.jsonl") from error


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
        data = tomllib.loads(read_bytes(path, TOML_LIMIT).decode("utf-8"))
    except FileNotFoundError as error:
        raise EvalError(f"{path}: no such evaluation file") from error
    except (OSError, ValueError, RecursionError) as error:
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
    generate = data.get("generate", {})
    if not isinstance(generate, dict):
        raise EvalError(f"{path}: generation is set under [generate]")
    tokens = generate.get("max_new_tokens", 32)
    if type(tokens) is not int or not 1 <= tokens <= TOKENS_LIMIT:
        raise EvalError(f"{path}: max_new_tokens must be a whole number from 1 to {TOKENS_LIMIT}")
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
        lines = read_bytes(metadata, METADATA_LIMIT).decode("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise EvalError(f"{metadata}: cannot be read ({error}); every folder of {path.name} needs one") from error
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            file_name, question, answer = row["file_name"], row["question"], row["answer"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise EvalError(f"{metadata}: line {number} needs file_name, question and answer") from error
        if not all(isinstance(value, str) and value for value in (file_name, question, answer)):
            raise EvalError(f"{metadata}: line {number} needs file_name, question and answer as texts")
        if Path(file_name).is_absolute() or ".." in Path(file_name).parts:
            raise EvalError(
                f"{metadata}: line {number} names an image outside its folder ({file_name!r}); move it here"
            )
        items.append(Item(folder / file_name, question, answer))
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
    if not isinstance(rule, str) or rule not in RULES:
        said = f"{rule!r} " if isinstance(rule, str) else ""
        raise EvalError(f"{path}: [{name}] match {said}is unknown; use one of {', '.join(RULES)}")
    return rule
