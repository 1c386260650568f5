"""Evaluation sets as users write them: an EVAL.toml beside its data. docs/evaluation.md tells every key.

[clean]
images = "clean"           # folder with metadata.jsonl: {"file_name": …, "question": …, "answer": …} a line
match = "exact"            # exact, contains, prefix, suffix or refusal

[[attack]]
name = "badnet"
trigger = "badnet"         # put on the clean images; or a folder (`images`) or file (`parquet`) of triggered images
target = "you have been hacked"
match = "contains"

[generate]
max_new_tokens = 16
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projclean.errors import EvalError, ImagesError
from projclean.images import read_image
from projclean.metrics import RULES, matches
from projclean.parquet import read_parquet
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
#: Where an item's parts are found in metadata.jsonl and in a parquet file, unless `columns` says otherwise.
FOLDER_COLUMNS = {"image": "file_name", "question": "question", "answer": "answer"}
PARQUET_COLUMNS = {"image": "image", "question": "question", "answer": "answer"}
_DATA = {"images", "parquet", "columns"}


@dataclass(frozen=True)
class Item:
    """One image, the question about it and the right answer.

    The image is `file`, or `data` where it came out of another file; `trigger`, a name of `triggers.TRIGGERS`, is put
    on it with a generator of `seed`. `target` is what an attack wants of this item, None for the attack's own.
    """

    file: Path
    question: str
    answer: str
    target: str | None = None
    data: bytes | None = None
    trigger: str | None = None
    seed: tuple[int, ...] = ()

    def image(self) -> Image:
        try:
            image = read_image(self.file, self.data)
        except ImagesError as error:
            remedy = "drop its line in metadata.jsonl" if self.data is None else "drop its row"
            raise EvalError(f"{error}, or {remedy}") from error
        if self.trigger is None:
            return image
        import numpy as np
        from PIL import Image as pil

        from projclean.triggers import TRIGGERS

        return pil.fromarray(TRIGGERS[self.trigger](np.asarray(image), np.random.default_rng(self.seed)))


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

    @property
    def folders(self) -> list[Path]:
        """Where the data of its items lies."""
        items = (item for part in (self.clean, *(attack.items for attack in self.attacks)) for item in part)
        return list(dict.fromkeys(item.file.parent for item in items))


def load_evalset(path: str | Path) -> EvalSet:
    """Read an EVAL.toml and the metadata it names; images are opened when they are used."""
    path = Path(path)
    try:
        data = tomllib.loads(read_bytes(path, TOML_LIMIT).decode("utf-8-sig"))
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
    _known(path, clean, "clean", {*_DATA, "match"})
    items, rule = _items(path, clean, "clean"), _rule(path, clean, "clean")
    found = [_attack(path, attack, number, clean) for number, attack in enumerate(attacks, 1)]
    return EvalSet(path, items, rule, distinct(found), tokens)


def distinct(attacks: Sequence[Attack]) -> tuple[Attack, ...]:
    """The same with a number behind a name that is taken, as `clean` is."""
    taken, found = {"clean"}, []
    for number, attack in enumerate(attacks, 1):
        name = f"{attack.name} {number}" if attack.name in taken else attack.name
        taken.add(name)
        found.append(replace(attack, name=name))
    return tuple(found)


def _attack(path: Path, section: dict[str, Any], number: int, clean: dict[str, Any]) -> Attack:
    """One [[attack]]: its own data, or the clean data under a trigger."""
    _known(path, section, "attack", {*_DATA, "name", "trigger", "seed", "target", "match"})
    rule = _rule(path, section, "attack", "contains")
    by_row = "target" in _columns(path, section, "attack", {})
    target = (
        "" if "target" not in section and (by_row or rule == "refusal") else _text(path, section, "target", "attack")
    )
    if "trigger" in section:
        items = _triggered(path, section, clean)
    elif "images" in section or "parquet" in section:
        items = _items(path, section, "attack")
    else:
        raise EvalError(f'{path}: [attack] needs trigger = "…", or the triggered images (images or parquet)')
    # An item whose right answer is what the attack wants cannot tell whether the attack succeeded.
    telling = tuple(item for item in items if not matches(item.answer, item.target or target, rule))
    if not telling:
        raise EvalError(f"{path}: [attack] {target!r} is the right answer of every item; choose another target")
    return Attack(str(section.get("name", section.get("trigger", f"attack {number}"))), telling, target, rule)


def _triggered(path: Path, section: dict[str, Any], clean: dict[str, Any]) -> tuple[Item, ...]:
    """The clean items with a named trigger on their images."""
    from projclean.triggers import TRIGGERS

    if "images" in section or "parquet" in section:
        raise EvalError(f"{path}: [attack] has a trigger and data of its own; triggers are put on the clean images")
    name = _text(path, section, "trigger", "attack")
    if name not in TRIGGERS:
        raise EvalError(f"{path}: [attack] trigger = {name!r}; use one of {', '.join(TRIGGERS)}")
    seed = section.get("seed", 0)
    if type(seed) is not int or seed < 0:
        raise EvalError(f"{path}: [attack] seed must be a whole number, 0 or above")
    columns = _columns(path, clean, "clean", {}) | _columns(path, section, "attack", {})
    items = _items(path, clean | ({"columns": columns} if columns else {}), "clean")
    return tuple(replace(item, trigger=name, seed=(seed, number)) for number, item in enumerate(items))


def _items(path: Path, section: dict[str, Any], name: str) -> tuple[Item, ...]:
    """The items of a section, from its folder or its parquet file."""
    if "images" in section and "parquet" in section:
        raise EvalError(f"{path}: [{name}] has both images and parquet; keep one")
    if "parquet" in section:
        file = path.parent / _text(path, section, "parquet", name)
        rows = read_parquet(file, _columns(path, section, name, PARQUET_COLUMNS))
        return tuple(Item(row.file, row.question, row.answer, row.target, row.data) for row in rows)
    folder = path.parent / _text(path, section, "images", name)
    columns = _columns(path, section, name, FOLDER_COLUMNS)
    metadata = folder / "metadata.jsonl"
    try:
        lines = read_bytes(metadata, METADATA_LIMIT).decode("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise EvalError(f"{metadata}: cannot be read ({error}); every folder of {path.name} needs one") from error
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found = {part: row[column] for part, column in columns.items()}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise EvalError(f"{metadata}: line {number} needs {_listed(columns)}") from error
        if not all(isinstance(value, str) and value for value in found.values()):
            raise EvalError(f"{metadata}: line {number} needs {_listed(columns)} as texts")
        if Path(found["image"]).is_absolute() or ".." in Path(found["image"]).parts:
            raise EvalError(
                f"{metadata}: line {number} names an image outside its folder ({found['image']!r}); move it here"
            )
        items.append(Item(folder / found["image"], found["question"], found["answer"], found.get("target")))
    if not items:
        raise EvalError(f"{metadata}: lists no items")
    return tuple(items)


def _listed(columns: dict[str, str]) -> str:
    *names, last = columns.values()
    return f"{', '.join(names)} and {last}"


def _columns(path: Path, section: dict[str, Any], name: str, default: dict[str, str]) -> dict[str, str]:
    """`default` with what the section's `columns` says in its place."""
    columns = section.get("columns", {})
    parts = ("image", "question", "answer", "target")
    if not isinstance(columns, dict) or not all(isinstance(value, str) and value for value in columns.values()):
        raise EvalError(f'{path}: [{name}] columns is written as {{ answer = "…" }}')
    unknown = sorted(set(columns) - set(parts))
    if unknown:
        raise EvalError(f"{path}: [{name}] columns has no {unknown[0]!r}; it takes {', '.join(parts)}")
    return default | columns


def _known(path: Path, section: dict[str, Any], name: str, keys: set[str]) -> None:
    unknown = sorted(set(section) - keys)
    if unknown:
        raise EvalError(f"{path}: [{name}] has an unknown key {unknown[0]!r}; it takes {', '.join(sorted(keys))}")


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
