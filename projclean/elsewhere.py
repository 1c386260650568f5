"""What changed outside the projector: other tensors, and the files beside the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

from projclean.checkpoint import Checkpoint, read_tensor
from projclean.errors import CheckpointError
from projclean.layering import adapted_elsewhere
from projclean.projectors import canonical
from projclean.untrusted import open_regular

Progress = Callable[[int, int], None]

#: Files whose change alters what a model does: tokenizer, templates, processors, configuration, code, a guard.
WATCHED = (
    "*.py", "*.jinja", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "*processor_config.json", "preprocessor_config.json", "config.json", "generation_config.json",
    "projclean_guard.*",
)  # fmt: skip


def changes_elsewhere(
    suspect: Checkpoint,
    base: Checkpoint,
    projector_keys: Collection[str],
    contents: bool = True,
    progress: Progress | None = None,
) -> list[str]:
    """One short line for every difference outside the projector; none for a bare projector file.

    An adapter's modules are named without reading them, and of its files those that the base's directory lacks or
    has otherwise.

    With `contents` every tensor is compared, one pair at a time; without, only names, shapes and dtypes.
    """
    if suspect.is_bare:
        return []
    if suspect.adapter is not None:
        files = [line for line in _files(suspect.path, base.path) if not line.endswith("only in the base")]
        return adapted_elsewhere(suspect.adapter, base, projector_keys) + files
    return _tensors(suspect, base, projector_keys, contents, progress) + _files(suspect.path, base.path)


def _tensors(
    suspect: Checkpoint,
    base: Checkpoint,
    projector_keys: Collection[str],
    contents: bool,
    progress: Progress | None,
) -> list[str]:
    import torch

    skip = {canonical(key) for key in projector_keys}
    ours = {canonical(key): key for key in suspect.tensors if canonical(key) not in skip}
    theirs = {canonical(key): key for key in base.tensors if canonical(key) not in skip}
    found = [
        f"tensor {key}: a second {canonical(key)}"
        for key in sorted(suspect.tensors)
        if canonical(key) in ours and ours[canonical(key)] != key
    ]
    found += [f"tensor {name}: only in the suspect" for name in sorted(set(ours) - set(theirs))]
    found += [f"tensor {name}: only in the base" for name in sorted(set(theirs) - set(ours))]
    both = sorted(set(ours) & set(theirs))
    for done, name in enumerate(both, 1):
        a, b = suspect.tensors[ours[name]], base.tensors[theirs[name]]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            found.append(f"tensor {name}: {a.dtype}{list(a.shape)}, in the base {b.dtype}{list(b.shape)}")
        elif contents:
            x, y = read_tensor(suspect, ours[name]), read_tensor(base, theirs[name])
            # Compared as bytes: a NaN equals itself.
            if not torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8)):
                found.append(f"tensor {name}: other values")
        if progress:
            progress(done, len(both))
    return found


def _files(suspect: Path, base: Path) -> list[str]:
    ours, theirs = _watched(suspect), _watched(base)
    found = [f"file {name}: only in the suspect" for name in sorted(set(ours) - set(theirs))]
    found += [f"file {name}: only in the base" for name in sorted(set(theirs) - set(ours))]
    for name in sorted(set(ours) & set(theirs)):
        if _size(ours[name]) != _size(theirs[name]) or _digest(ours[name]) != _digest(theirs[name]):
            found.append(f"file {name}: other contents")
    return found


def _watched(folder: Path) -> dict[str, Path]:
    return {file.name: file for pattern in WATCHED for file in folder.glob(pattern) if file.is_file()}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise _unreadable(file, error) from error


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open_regular(file, file.parent) as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise _unreadable(file, error) from error
    return digest.hexdigest()


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{file}: cannot be read ({error.strerror}); leave the model alone and run again")
