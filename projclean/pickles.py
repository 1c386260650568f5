"""Torch pickles (mm_projector.bin, non_lora_trainables.bin): tensors alone, and only where the user allowed it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from projclean.access import Access
from projclean.checkpoint import Checkpoint, TensorEntry
from projclean.derived import Derived
from projclean.errors import CheckpointError
from projclean.untrusted import open_regular

if TYPE_CHECKING:
    import torch

SUFFIXES = (".bin", ".pt", ".pth")


def open_pickle(file: Path, access: Access) -> Checkpoint:
    """A pickled dictionary of tensors, read into memory by torch's restricted unpickler.

    Raises CheckpointError when pickles were not allowed, or when the file holds anything but plain tensors.
    """
    if not access.pickles:
        raise CheckpointError(
            f"{file}: is a pickle, which can carry code; convert it to safetensors, or pass --allow-pickle to read "
            "its tensors with torch's restricted loader"
        )
    tensors = _load(file)
    names = _dtype_names()
    entries = {key: TensorEntry(key, file, names[value.dtype], tuple(value.shape)) for key, value in tensors.items()}
    files = Checkpoint(file, entries)
    derived = {key: Derived(files, (), lambda _, value=value: value) for key, value in tensors.items()}  # type: ignore[misc]
    return Checkpoint(file, entries, derived=derived, behind=files)


def _load(file: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        with open_regular(file, file.parent) as handle:
            size = os.fstat(handle.fileno()).st_size
            if zipfile.is_zipfile(handle):
                inside = sum(entry.file_size for entry in zipfile.ZipFile(handle).infolist())
                if inside > size:  # torch never compresses
                    raise CheckpointError(f"{file}: unpacks to {inside} bytes, more than its size; do not trust it")
            handle.seek(0)
            loaded = torch.load(handle, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a hostile or damaged pickle can raise anything
        reason = " ".join(str(error).split()).split(". ")[0][:160] or type(error).__name__
        raise CheckpointError(f"{file}: is no plain pickle of tensors ({reason}); do not trust it") from error
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{file}: holds no dictionary of tensors; pass the projector's weights")
    names = _dtype_names()
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{file}: holds more than named tensors ({str(key)[:60]!r}); do not trust it")
        plain = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
        if not plain or value.dtype not in names:
            raise CheckpointError(f"{file}: {key[:120]} is not a plain floating-point tensor; convert it first")
        if value.numel() * value.element_size() > size:
            raise CheckpointError(f"{file}: {key[:120]} claims more than the file holds; do not trust it")
    return {key: value.detach() for key, value in loaded.items()}


def _dtype_names() -> dict[torch.dtype, str]:
    from projclean.dtypes import TORCH

    return {dtype: name for name, dtype in TORCH.items()}
