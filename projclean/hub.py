"""Where a model lies: a path, or a hub id `org/name[@revision]` in the local Hugging Face cache.

Nothing is fetched unless the user asked for it, and never with HF_HUB_OFFLINE set.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from projclean.access import Access
from projclean.errors import CheckpointError

_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,100}))?")
#: What a scan reads or compares. Pickles are left where they are.
WANTED = [
    "*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tokenizer", "*.spm", "*.tiktoken", "*.codes", "*.py",
    "README.md",
]  # fmt: skip
PICKLES = ["mm_projector.bin", "non_lora_trainables.bin", "adapter_model.bin"]


def locate(name: str | Path, access: Access, beside: Path | None = None) -> Path | None:
    """The path of a model: on disk as given or in the folder `beside`, else its snapshot in the hub cache.

    None when it is in neither; then, if `access` allows it, a hub id is downloaded. Raises CheckpointError when the
    download fails.
    """
    for path in (Path(name), *([beside / name] if beside else [])):
        with contextlib.suppress(OSError, ValueError):  # a name too long, or with a null byte
            if path.exists():
                return path
    found = _ID.fullmatch(str(name))
    if found is None or ".." in str(name):
        return None
    return _cached(found["name"], found["revision"]) or _download(found["name"], found["revision"], access)


def locate_model(name: str | Path, access: Access) -> Path:
    """As `locate`, for the model under test. Raises CheckpointError when it is in neither place."""
    if not str(name):
        raise CheckpointError("the model's name is empty; name a directory, a file or a hub id")
    path = locate(name, access)
    if path is not None:
        return path
    if _ID.fullmatch(str(name)):
        raise CheckpointError(
            f"{name}: no such directory or file, and no such model in the local Hugging Face cache; "
            "check the name, or pass --download to fetch it from the hub"
        )
    raise CheckpointError(f"{name}: no such model directory or .safetensors file; check the path")


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for wanted in (None, WANTED):  # whole, or as a download of ours left it
        try:
            return Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=wanted))
        except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
            continue
    return None


def _download(name: str, revision: str | None, access: Access) -> Path | None:
    if not access.download:
        return None
    from huggingface_hub import constants, snapshot_download

    if constants.is_offline_mode():
        raise CheckpointError(f"{name}: is not in the local Hugging Face cache, and HF_HUB_OFFLINE forbids --download")
    try:
        patterns = WANTED + (PICKLES if access.pickles else [])
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # no network, no such model, gated, a full disk
        reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
        raise CheckpointError(
            f"{name}: cannot be downloaded ({reason}); check the name, your access and the connection"
        ) from error
