"""Writes a repaired model directory: complete, or not there.

The source directory is copied into a hidden sibling of the output, the projector's bytes are overwritten inside
the copied shards (so that header, metadata, order and every other tensor survive byte for byte), everything is
flushed to disk, and one rename makes it the output. A source that changes while it is copied is an error.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from projclean.checkpoint import CHANGED, Checkpoint, check_unchanged
from projclean.errors import CheckpointError, OutputError
from projclean.staging import put_in_place, staging, sync
from projclean.untrusted import Stamp, is_directory, open_regular

if TYPE_CHECKING:
    import torch

CARD = "README.md"
MODELS = ("config.json", "adapter_config.json")  # one of them is in every directory that may be replaced


def check_output(source: Checkpoint, out: Path, force: bool, read: Iterable[Path] = ()) -> None:
    """Refuse an output that would touch the input or what else is read, that exists (with `force`: and is no model), or
    whose parent cannot be written to."""
    ours, named = out.resolve(), source.path
    # Where the model lies, and where the link to it does, when it is named by one.
    theirs = (named.resolve(), named.parent.resolve() / named.name)
    if any(_within(ours, place) or _within(place, ours) for place in theirs):
        raise OutputError(f"{out}: overlaps the model at {source.path}; choose another --out")
    for path in read:
        if _within(path.resolve(), ours):
            raise OutputError(f"{out}: holds {path}, which is read; choose another --out")
    if os.path.islink(out):  # noqa: PTH114 - Path.is_symlink raises on names that are too long
        raise OutputError(f"{out}: is a link; name the directory itself, or choose another --out")
    if os.path.lexists(out) and not force:
        raise OutputError(f"{out}: exists; choose another --out or pass --force to replace it")
    if os.path.lexists(out) and not is_directory(out):
        raise OutputError(f"{out}: is a file; choose another --out")
    if os.path.lexists(out) and not _replaceable(out):
        raise OutputError(f"{out}: is no model, and --force replaces nothing else; choose another --out")
    parent = ours.parent
    if not is_directory(parent):
        raise OutputError(f"{parent}: no such directory; create it first")
    try:
        with staging(ours):
            pass
    except OSError as error:
        raise OutputError(f"{parent}: cannot be written to ({error.strerror}); choose another --out") from error


def _replaceable(folder: Path) -> bool:
    """Whether a directory is empty or a model."""
    try:
        held = list(folder.iterdir())
    except OSError:  # what cannot be read is nobody's to replace
        return False
    return not held or any((folder / name).is_file() for name in MODELS)


def write_model(
    source: Checkpoint,
    tensors: Mapping[str, torch.Tensor],
    out: Path,
    card: str,
    force: bool,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write `source` with some tensors replaced, and `card` appended to its model card, as directory `out`.

    `beside` are more files, by name, that are put there or take the place of the source's.
    tensors maps the source's own keys to float32 values in the shape stored; they are cast to the stored dtype.
    Raises OutputError; then `out` is as it was before. CheckpointError when the source changed since it was opened.
    """
    check_output(source, out, force)
    size, free = sum(stamp.size for stamp in source.stamps.values()), shutil.disk_usage(out.resolve().parent).free
    if size > free:
        raise OutputError(f"{out}: needs {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; choose another --out")
    try:
        with staging(out.resolve()) as partial:
            _copy(source, partial)
            check_unchanged(source)
            _overwrite(source, tensors, partial)
            for name, data in (beside or {}).items():
                (partial / name).write_bytes(data)
            _append_card(partial / CARD, card)
            partial.chmod(0o777 & ~umask())
            _flush(partial)
            put_in_place(partial, out.resolve(), force)
    except OSError as error:
        raise OutputError(f"{out}: writing failed ({error.strerror or error}); nothing was left behind") from error


def _within(path: Path, folder: Path) -> bool:
    """Whether a resolved path is `folder` or lies in it, under whatever name the file system knows the two by."""
    return any(each == folder or _same(each, folder) for each in (path, *path.parents))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist
        return False


def _copy(source: Checkpoint, target: Path) -> None:
    """Copy the files that the directory had when it was opened; links among them become files."""
    for name, stamp in source.stamps.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            reader = open_regular(source.path / name, source.path)
        except OSError as error:
            raise CheckpointError(f"{source.path / name}: {CHANGED}") from error
        with reader, (target / name).open("xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            if Stamp.of(reader) != stamp or writer.tell() != stamp.size:
                raise CheckpointError(f"{source.path / name}: {CHANGED}")


def _overwrite(source: Checkpoint, tensors: Mapping[str, torch.Tensor], partial: Path) -> None:
    """Put tensors' bytes in their places in the copied files."""
    import torch

    from projclean.dtypes import TORCH

    for key, value in tensors.items():
        entry = source.tensors[key]
        stored = value.to(TORCH[entry.dtype]).contiguous().reshape(-1).view(torch.uint8)
        data = stored.numpy().tobytes()
        place = entry.place
        if place is None or len(data) != place.stop - place.start:
            raise AssertionError(f"{key}: {len(data)} bytes for {place}")
        with (partial / entry.file.name).open("r+b") as handle:
            handle.seek(place.start)
            handle.write(data)


def _append_card(file: Path, section: str) -> None:
    with file.open("ab+") as handle:
        size = handle.tell()
        handle.seek(max(0, size - 2))
        tail = handle.read()
        joint = b"" if size == 0 else b"\n" * (2 - len(tail) + len(tail.rstrip(b"\n")))
        handle.write(joint + section.strip().encode("utf-8", "replace") + b"\n")


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def umask() -> int:
    """The bits that new files are made without."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
