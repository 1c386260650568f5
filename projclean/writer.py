"""Writes a repaired model directory: complete, or not there.

The source directory is copied into a hidden sibling of the output, the projector's bytes are overwritten inside
the copied shards (so that header, metadata, order and every other tensor survive byte for byte), everything is
flushed to disk, and one rename makes it the output.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from projclean.checkpoint import Checkpoint
from projclean.errors import OutputError

if TYPE_CHECKING:
    import torch

CARD = "README.md"
SKIP = {".git", ".cache", "__pycache__"}


def check_output(source: Checkpoint, out: Path, force: bool) -> None:
    """Refuse an output that would touch the input, that exists, or whose parent cannot be written to."""
    ours, theirs = out.resolve(), source.path.resolve()
    if ours == theirs or theirs in ours.parents or ours in theirs.parents:
        raise OutputError(f"{out}: overlaps the model at {source.path}; choose another --out")
    if out.exists() and not force:
        raise OutputError(f"{out}: exists; choose another --out or pass --force to replace it")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; choose another --out")
    parent = ours.parent
    if not parent.is_dir():
        raise OutputError(f"{parent}: no such directory; create it first")
    try:
        tempfile.TemporaryDirectory(dir=parent, prefix=f".{out.name}.").cleanup()
    except OSError as error:
        raise OutputError(f"{parent}: cannot be written to ({error.strerror}); choose another --out") from error


def write_model(source: Checkpoint, tensors: Mapping[str, torch.Tensor], out: Path, card: str, force: bool) -> None:
    """Write `source` with some tensors replaced, and `card` appended to its model card, as directory `out`.

    tensors maps the source's own keys to float32 values in the shape stored; they are cast to the stored dtype.
    Raises OutputError; then `out` is as it was before.
    """
    check_output(source, out, force)
    try:
        partial = Path(tempfile.mkdtemp(dir=out.resolve().parent, prefix=f".{out.name}.partial-"))
    except OSError as error:
        raise OutputError(f"{out}: cannot be created ({error.strerror})") from error
    try:
        _copy(source.path, partial)
        for file in sorted({source.tensors[key].file for key in tensors}):
            inside = {key: value for key, value in tensors.items() if source.tensors[key].file == file}
            _overwrite(partial / file.name, inside)
        _append_card(partial / CARD, card)
        partial.chmod(0o777 & ~_umask())
        _flush(partial)
        _swap(partial, out)
    except OSError as error:
        raise OutputError(f"{out}: writing failed ({error.strerror or error}); nothing was left behind") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a directory's regular files; links are followed, since a hub cache is made of links."""
    for entry in sorted(source.iterdir()):
        if entry.name in SKIP:
            continue
        if entry.is_dir():
            (target / entry.name).mkdir()
            _copy(entry, target / entry.name)
        elif entry.is_file():
            shutil.copyfile(entry, target / entry.name)


def _overwrite(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put tensors' bytes in the place their header names."""
    import torch

    from projclean.dtypes import TORCH

    with file.open("r+b") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
        for key, value in tensors.items():
            entry = header[key]
            start, stop = entry["data_offsets"]
            stored = value.to(TORCH[entry["dtype"]]).contiguous().reshape(-1).view(torch.uint8)
            data = stored.numpy().tobytes()
            if len(data) != stop - start:
                raise AssertionError(f"{key}: {len(data)} bytes for a place of {stop - start}")
            handle.seek(8 + size + start)
            handle.write(data)


def _append_card(file: Path, section: str) -> None:
    before = file.read_text(encoding="utf-8", errors="surrogateescape") if file.exists() else ""
    joint = "\n\n" if before.strip() else ""
    file.write_text(before.rstrip() + joint + section.strip() + "\n", encoding="utf-8", errors="surrogateescape")


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(partial: Path, out: Path) -> None:
    """Rename into place; an output that is replaced is moved aside first and removed last."""
    if not out.exists():
        partial.rename(out)
        return
    aside = Path(tempfile.mkdtemp(dir=out.resolve().parent, prefix=f".{out.name}.old-"))
    out.rename(aside / out.name)
    try:
        partial.rename(out)
    except OSError:
        (aside / out.name).rename(out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
