"""The header of a safetensors file, read strictly.

A file is 8 bytes of header length (little endian), the header as a JSON object, then the tensors' bytes. Stricter
than the format's own library: also duplicate names are refused (of two, each reader picks one), and sizes are
capped before anything is parsed. Whatever is accepted here the library accepts too, with the same contents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn, cast

HEADER_LIMIT = 32 << 20  # bytes; the largest shards in use stay below 1 MiB
BRACKETS_LIMIT = 1_000_000  # objects and lists: each costs far more memory parsed than as text
NAME_LIMIT = 1000
DIMENSIONS_LIMIT = 16

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
FIELDS = {"dtype", "shape", "data_offsets"}


class HeaderError(ValueError):
    """What is wrong with a header, as part of a sentence; its reader adds the file and the remedy."""


@dataclass(frozen=True)
class Entry:
    """A tensor's type, shape and place; `start` and `stop` are offsets in the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def parse_header(handle: BinaryIO, file_size: int) -> dict[str, Entry]:
    """Every tensor of an open file of `file_size` bytes. Raises HeaderError, and OSError from reading."""
    head = handle.read(8)
    if len(head) < 8:
        raise HeaderError("it ends before its header")
    size = int.from_bytes(head, "little")
    if size > HEADER_LIMIT:
        raise HeaderError(f"it claims a header of {size} bytes, more than {HEADER_LIMIT} are never needed")
    if size > file_size - 8:
        raise HeaderError(f"it claims a header of {size} bytes and has {file_size} in all")
    data = handle.read(size)
    if len(data) < size:
        raise HeaderError("it ends inside its header")
    if not data.startswith(b"{"):
        raise HeaderError("its header does not begin with an object")
    fields = parse_json(data, strict=True)
    if not isinstance(fields, dict):
        raise HeaderError("its header is no object")
    _check_metadata(fields.pop("__metadata__", None))
    entries = {name: _entry(name, value, 8 + size) for name, value in fields.items()}
    _check_cover(entries, 8 + size, file_size)
    return entries


def parse_json(data: bytes, strict: bool = False) -> Any:
    """Parse UTF-8 JSON within bounded memory. `strict` refuses repeated keys, fractions, NaN and infinity.

    Raises HeaderError.
    """
    if data.count(b"{") + data.count(b"[") > BRACKETS_LIMIT:
        raise HeaderError(f"more than {BRACKETS_LIMIT} objects and lists")
    try:
        text = data.decode("utf-8")
        if strict:
            return json.loads(text, object_pairs_hook=_no_repeats, parse_float=_refuse, parse_constant=_refuse)
        return json.loads(text)
    except HeaderError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:  # bad UTF-8, bad JSON, endless digits, endless nesting
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise HeaderError(f"invalid JSON: {reason}") from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise HeaderError(f"{twice[:80]!r} stands in it twice")
    return found


def _refuse(text: str) -> NoReturn:
    raise HeaderError(f"{text[:40]} where only whole numbers belong")


def _check_metadata(metadata: object) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError("its __metadata__ is no map of texts")
    for text in (*metadata.keys(), *metadata.values()):
        _check_text(text)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise HeaderError("half a character in a text") from error


def _entry(name: str, value: object, origin: int) -> Entry:
    _check_text(name)
    if len(name) > NAME_LIMIT:
        raise HeaderError(f"a tensor's name is longer than {NAME_LIMIT} characters")
    if not isinstance(value, dict) or set(value) != FIELDS:
        raise HeaderError(f"{name!r} has other fields than {', '.join(sorted(FIELDS))}")
    dtype, shape, offsets = value.get("dtype"), _whole(value.get("shape")), _whole(value.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise HeaderError(f"{name!r} is of an unknown type")
    if shape is None or len(shape) > DIMENSIONS_LIMIT:
        raise HeaderError(f"{name!r} has no usable shape")
    if offsets is None or len(offsets) != 2:
        raise HeaderError(f"{name!r} has no usable data_offsets")
    if math.prod(max(side, 1) for side in shape) >= 1 << 60:
        raise HeaderError(f"{name!r} is larger than any memory")
    start, stop = offsets
    if math.prod(shape) * BITS[dtype] != 8 * (stop - start):
        raise HeaderError(f"{name!r} has {stop - start} bytes, not what its type and shape need")
    return Entry(dtype, tuple(shape), origin + start, origin + stop)


def _whole(value: object) -> list[int] | None:
    """The value where it is a list of whole numbers."""
    fits = isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    return cast("list[int]", value) if fits else None


def _check_cover(entries: Mapping[str, Entry], origin: int, file_size: int) -> None:
    """The tensors lie side by side, without gap or overlap, up to the end of the file."""
    end = origin
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            fault = "overlaps another tensor" if entry.start < end else "leaves a gap before it"
            raise HeaderError(f"{name!r} {fault}")
        end = entry.stop
    if end != file_size:
        raise HeaderError(f"its tensors end at byte {end} and the file at byte {file_size}")
