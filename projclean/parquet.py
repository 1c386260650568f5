"""Items of an evaluation set out of a parquet file as Hugging Face datasets write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projclean.errors import EvalError


@dataclass(frozen=True)
class Row:
    """One row: the image's bytes, or None where `file` is the image itself; the texts about it."""

    file: Path
    data: bytes | None
    question: str
    answer: str
    target: str | None


def read_parquet(file: Path, columns: Mapping[str, str]) -> list[Row]:
    """The rows of a parquet file; `columns` names those of image, question, answer and, if wanted, target.

    Images are structs of bytes and path, as the `Image` feature of Hugging Face datasets stores them, or plain bytes.
    A path without bytes is looked up beside the file. Needs pyarrow. Raises EvalError.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EvalError(f"{file}: reading parquet needs pyarrow; pip install 'projclean[eval]'") from error
    try:
        names = pyarrow.parquet.read_schema(file).names
        for part, column in columns.items():
            if column not in names:
                raise EvalError(
                    f'{file}: has no column {column!r} ({", ".join(names)}); name it with columns = {{ {part} = "…" }}'
                )
        table = pyarrow.parquet.read_table(file, columns=list(dict.fromkeys(columns.values())))
    except FileNotFoundError as error:
        raise EvalError(f"{file}: no such parquet file") from error
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:160]
        raise EvalError(f"{file}: cannot be read as parquet ({reason})") from error
    try:
        values = table.to_pylist()
    except UnicodeDecodeError as error:
        raise EvalError(f"{file}: holds a text that is not UTF-8; write it again with its texts as UTF-8") from error
    rows = [_row(file, number, row, columns) for number, row in enumerate(values, 1)]
    if not rows:
        raise EvalError(f"{file}: has no rows")
    return rows


def _row(file: Path, number: int, row: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    texts = {part: row[column] for part, column in columns.items() if part != "image"}
    for part, value in texts.items():
        if not isinstance(value, str) or not value:
            raise EvalError(f"{file}: row {number} has no text in column {columns[part]!r}")
    image = row[columns["image"]]
    if isinstance(image, Mapping):
        data, path = image.get("bytes"), image.get("path")
    else:
        data, path = image, None
    if isinstance(data, bytes) and data:
        return Row(file, data, texts["question"], texts["answer"], texts.get("target"))
    if not isinstance(path, str) or not path:
        raise EvalError(f"{file}: row {number} has neither bytes nor a path in column {columns['image']!r}")
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise EvalError(f"{file}: row {number} names an image outside its folder ({path!r}); store its bytes")
    return Row(file.parent / path, None, texts["question"], texts["answer"], texts.get("target"))
