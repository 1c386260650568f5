"""Loads a model and its processor through transformers: from the disk alone, without running the model's own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from projclean.errors import ModelError, OptionError
from projclean.memory import bytes_free, bytes_needed

if TYPE_CHECKING:
    from PIL.Image import Image

    from projclean.checkpoint import Checkpoint

FLOAT32_LIMIT = 1_000_000_000  # parameters; larger models run in the dtype they are stored in


def load(checkpoint: Checkpoint, device: str) -> tuple[Any, Any]:
    """The model and its processor, ready to answer.

    Raises ModelError when transformers cannot load it or it does not fit, OptionError for a device that is not here.
    """
    import transformers

    _check_device(device)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    size = sum(int(torch.Size(entry.shape).numel()) for entry in checkpoint.tensors.values())
    needed, free = bytes_needed(checkpoint.tensors.values(), 4 if size < FLOAT32_LIMIT else None), bytes_free()
    if needed > free:
        raise ModelError(
            f"{checkpoint.path}: running it takes about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB is free"
        )
    try:
        processor = transformers.AutoProcessor.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False
        )
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            checkpoint.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32 if size < FLOAT32_LIMIT else "auto",
        )
    except Exception as error:  # whatever a strange directory makes transformers raise
        raise ModelError(f"{checkpoint.path}: transformers cannot load this model ({brief(error)})") from error
    if hasattr(processor, "tokenizer"):
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
    try:
        model = model.to(device)
    except Exception as error:  # as a rule: not enough memory there
        raise ModelError(f"{checkpoint.path}: does not go to {device} ({brief(error)})") from error
    return model.eval().requires_grad_(False), processor


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except Exception as error:  # which one depends on the device, and on how torch was built
        raise OptionError(
            f"--device {device}: cannot be used here ({brief(error)}); name cpu or cuda:1, say"
        ) from error


def chat(processor: Any, prompt: str, pictured: bool = True) -> str:
    """An image, if `pictured`, and a prompt as the model's chat template puts them."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * pictured + [{"type": "text", "text": prompt}]
        return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
    token = getattr(processor, "image_token", None)
    return f"{token}{prompt}" if token and pictured else prompt


def processed(processor: Any, images: Sequence[Image], texts: Sequence[str]) -> Mapping[str, Any]:
    """What a processor makes of texts with an image each."""
    ask = partial(processor, text=list(texts), padding=True, return_tensors="pt")
    try:
        found: Mapping[str, Any] = ask(images=list(images))
    except Exception:  # some want a list of images for each text, and refuse others before they look at a pixel
        found = ask(images=[[image] for image in images])
    return found


def placeholders(config: Any) -> set[int]:
    """The tokens in whose places a model puts what it sees or hears. They need not be among the special ones."""
    names = (f"{kind}_token_{end}" for kind in ("image", "video", "audio") for end in ("id", "index"))
    return {token for token in (getattr(config, name, None) for name in names) if isinstance(token, int)}


def opening(config: Any) -> list[int]:
    """What an encoder-decoder's answers start from by its generation config: none of it is for the model to choose."""
    starts = (config.decoder_start_token_id, config.bos_token_id, config.pad_token_id)
    start = next((token for token in starts if token is not None), 0)
    return [start] if config.forced_bos_token_id is None else [start, config.forced_bos_token_id]


def brief(error: BaseException) -> str:
    """A foreign error as part of one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
