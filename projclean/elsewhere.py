"""What changed outside the projector: other tensors, and the files beside the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from projclean.adapter import CONFIG
from projclean.checkpoint import CHANGED, INDEX, Checkpoint, read_tensor
from projclean.errors import CheckpointError
from projclean.layering import adapted_elsewhere
from projclean.projectors import canonical
from projclean.untrusted import Stamp, open_regular

Progress = Callable[[int, int], None]

#: Files whose change alters what a model does, by their name in whatever folder: code, templates, tokenizers (those of
#: transformers' models and of mistral-common), processors, configuration, a guard.
WATCHED = (
    "*.py", "*.pyc", "*.so", "*.pyd", "*.jinja", "chat_template*",
    "tokenizer*", "*.tokenizer", "vocab*", "*vocab.json", "merges.txt", "*.model", "*.spm", "*.tiktoken", "*.codes",
    "tekken.json", "dict.txt", "byte_maps.json", "emoji.json", "normalizer.json", "word_pronunciation.json",
    "word_shape.json", "special_tokens_map.json", "added_tokens.json",
    "*processor_config.json", "config.json", "generation_config.json", "params.json", CONFIG, "projclean_guard.*",
)  # fmt: skip
#: Weights in any form: what is not opened here, another loader may read. vLLM reads every *.safetensors of a directory
#: without an index.
WEIGHTS = (
    "*.safetensors", "*.bin", "*.pth", "*.pt", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data",
    "*.npz", "*.npy", "*.pkl", "*.tensors", "*.tflite", "*.index.json",
)  # fmt: skip
#: What training leaves beside them and no loader takes for weights.
TRAINING = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
TEMPLATES = "additional_chat_templates"  # the one folder in which transformers looks by itself


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
        return adapted_elsewhere(suspect.adapter, base, projector_keys) + _files(suspect.files, base.files, CONFIG)
    changed = _tensors(suspect, base, projector_keys, contents, progress) + _files(suspect.files, base.files, INDEX)
    return changed + _missing(suspect.files, base.files)


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


def _files(suspect: Checkpoint, base: Checkpoint, understood: str) -> list[str]:
    """Files of the suspect that the base has not, or otherwise; but for the weights that were opened, and `understood`.

    Those are the files that were there when the two were opened, so not what lies in `untrusted.SKIP` (.git, the
    downloads' own .cache): no loader looks there, and a repair does not copy it. Other hidden folders are looked into.
    """
    opened = {entry.file.relative_to(suspect.path).as_posix() for entry in suspect.tensors.values()}
    ours = [
        name
        for name in suspect.stamps
        if name not in opened and name != understood and (_is_watched(name) or _is_weights(name))
    ]
    found = [f"file {name}: only in the suspect" for name in ours if name not in base.stamps]
    both = [name for name in ours if name in base.stamps]
    return found + [f"file {name}: other contents" for name in both if not _is_same(suspect, base, name)]


def _missing(suspect: Checkpoint, base: Checkpoint) -> list[str]:
    """Files that only the base has and a loader looks for by itself: not other forms of its weights, nor what lies in
    folders of its own."""
    looked_for = {".", TEMPLATES}
    return [
        f"file {name}: only in the base"
        for name in base.stamps
        if name not in suspect.stamps
        and _is_watched(name)
        and not _is_weights(name)
        and str(PurePosixPath(name).parent) in looked_for
    ]


def _is_watched(name: str) -> bool:
    return _is_named(name, WATCHED)


def _is_weights(name: str) -> bool:
    return _is_named(name, WEIGHTS) and not _is_named(name, TRAINING)


def _is_named(name: str, patterns: Collection[str]) -> bool:
    """Whether a file's own name, in whatever folder, is of a pattern, as file systems read it that ignore case."""
    own = PurePosixPath(name).name.lower()
    return any(fnmatchcase(own, pattern) for pattern in patterns)


def _is_same(suspect: Checkpoint, base: Checkpoint, name: str) -> bool:
    return suspect.stamps[name].size == base.stamps[name].size and _digest(suspect, name) == _digest(base, name)


def _digest(files: Checkpoint, name: str) -> str:
    file, digest = files.path / name, hashlib.sha256()
    try:
        with open_regular(file, files.path) as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
            same = Stamp.of(handle) == files.stamps[name]
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error.strerror}); leave the model alone and run again"
        ) from error
    if not same:
        raise CheckpointError(f"{file}: {CHANGED}")
    return digest.hexdigest()
