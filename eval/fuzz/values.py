"""Hostile values and bytes, drawn from a random generator: any JSON, sound JSON with a lie in it, damaged bytes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from projclean.checkpoint import INDEX, SINGLE

TEXTS = [
    "", " ", ".", "..", "/", "~", "../..", "/etc/passwd", "../../secret.safetensors", "a/b", "a\\b", "null",
    "nul\0byte", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "line\nerror: forged", "tab\tand\rreturn",
    "[bold]x[/]", ":bomb:", "[/]", "back\\", "\u202etxt", "\u200b", "\ud800", "\udcff", "²", "١٢", "\U0001f9e8",
    "a" * 300, "b/" * 600, "x" * 5000, "__metadata__", SINGLE, INDEX, "model.safetensors ", "llava", "{{ 7*7 }}",
    "!!python/object:os.system", "base", "org/model",
    "multi_modal_projector.linear_1.weight", "model.multi_modal_projector.linear_1.weight",
]  # fmt: skip
NUMBERS: list[Any] = [
    0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), True, False, None,
]  # fmt: skip


def junk(rng: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind < 5:
        return rng.choice(NUMBERS)
    if kind < 7:
        return [junk(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS): junk(rng, depth - 1) for _ in range(rng.randrange(4))}


def mutated(rng: Random, value: Any) -> Any:
    """The value with something in it replaced, removed, renamed or doubled."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        if type(value) is int and rng.random() < 0.5:
            return value + rng.choice([-8, -4, -1, 1, 4, 8, value, 2**32])
        return junk(rng)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [
            *value[:place],
            *rng.choice([[], [mutated(rng, value[place])], [value[place]] * 2]),
            *value[place + 1 :],
        ]
    key = rng.choice(list(value))
    rest = {name: item for name, item in value.items() if name != key}
    how = rng.randrange(6)
    if how == 0:
        return rest
    if how == 1:
        return rest | {rng.choice(TEXTS): value[key]}
    if how == 2:
        return value | {rng.choice(TEXTS): rng.choice([value[key], junk(rng)])}
    return rest | {key: mutated(rng, value[key])}


def json_bytes(rng: Random, value: Any) -> bytes:
    """JSON text, one time in five damaged as text."""
    data = json.dumps(value, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    if rng.random() > 0.2:
        return data
    damage = rng.randrange(7)
    if damage == 0:
        deep = rng.choice([50, 2000, 200_000])
        return b'{"a":' + b"[" * deep + b"]" * rng.choice([deep, 0]) + b"}"
    if damage == 1:
        return data.replace(b"0", b"9" * rng.choice([30, 6000]), 1)
    if damage == 2:
        return rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b" ", b"\n\n"]) + data
    if damage == 3:
        return data + rng.choice([b"}", b"\0" * 9, b" " * 5000, b"\n{}", b"\xff"])
    if damage == 4:  # every key twice
        return b"{" + data[1:-1] + b"," + data[1:] if len(data) > 2 else data
    if damage == 5:
        return b'{"' + b'":0,"'.join(str(number).encode() for number in range(3000)) + b'":0}'
    return damaged(rng, data)


def damaged(rng: Random, data: bytes) -> bytes:
    """Bytes with a few of them flipped, cut, doubled, overwritten or moved."""
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        if not data:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(32)))
        at, length = rng.randrange(len(data)), rng.choice([1, 1, 2, 8, 64])
        if rng.random() < 0.5:
            at %= 600  # headers are where the structure is
        how = rng.randrange(7)
        if how == 0:
            data = data[:at] + bytes([data[at % len(data)] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif how == 1:
            data = data[:at]
        elif how == 2:
            data = data[:at] + data[at + length :]
        elif how == 3:
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        elif how == 4:
            data = data[:at] + bytes(rng.randrange(256) for _ in range(length)) + data[at + length :]
        elif how == 5:
            data = data[:at] + rng.choice([b"\0", b"\xff", b'"', b"{", b"[", b"9", b"-", b"\n"]) + data[at:]
        else:
            number = rng.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(data), len(data) - 8, 100_000_000])
            data = max(number, 0).to_bytes(8, "little") + data[8:]
    return data
