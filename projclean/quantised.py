"""Quantised checkpoints: a projector stored as integers is named and refused, float8 with scales is computed.

What is outside the projector may be quantised as it likes: it is only compared byte by byte.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from projclean.checkpoint import Checkpoint, TensorEntry
from projclean.derived import Derived
from projclean.errors import CheckpointError
from projclean.projectors import match_projector

if TYPE_CHECKING:
    import torch

    from projclean.derived import Tensors

FLOAT8 = {"F8_E4M3", "F8_E5M2"}
INTEGERS = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL", "F4", "F6_E2M3", "F6_E3M2"}
#: Leaves that stand in for a `.weight`, and those that stand beside one, with the scheme each tells of.
PACKED = {
    "qweight": "GPTQ or AWQ", "weight_packed": "compressed-tensors", "W_q": "HQQ", "weight_q": "HQQ",
    "weight_blocks": "MXFP4", "codes": "AQLM",
}  # fmt: skip
BESIDE = {
    "weight.quant_state.bitsandbytes__nf4": "bitsandbytes 4-bit", "weight.quant_state.bitsandbytes__fp4":
    "bitsandbytes 4-bit", "weight.absmax": "bitsandbytes 4-bit", "SCB": "bitsandbytes 8-bit",
    "weight_shape": "compressed-tensors", "weight_scales": "EETQ", "weight._data": "quanto",
}  # fmt: skip
SCALES = ("weight_scale_inv", "weight_scale")


def plain_view(checkpoint: Checkpoint, pattern: str | None = None) -> Checkpoint:
    """The checkpoint with float8 weights multiplied by their scales, where its config says that they have some.

    Raises CheckpointError when a matrix of the projector is quantised in another way.
    """
    view = _with_scales(checkpoint)
    found = quantised_layer(view, pattern)
    if found is not None:
        name, entry, scheme = found
        raise CheckpointError(
            f"{entry.file}: the projector's {name} is quantised ({scheme}); scan the model before it was quantised, "
            "or dequantise it first (transformers: model.dequantize(), then save_pretrained)"
        )
    return view


def quantised_layer(checkpoint: Checkpoint, pattern: str | None = None) -> tuple[str, TensorEntry, str] | None:
    """The first quantised matrix of the projector: its name, where it lies, and the scheme; None when there is none."""
    shapes = {key: entry.shape for key, entry in checkpoint.tensors.items()}
    stand_ins: dict[str, TensorEntry] = {}
    for key, entry in checkpoint.tensors.items():
        module, _, leaf = key.rpartition(".")
        if leaf in PACKED or (leaf == "weight" and entry.dtype in INTEGERS):
            stand_ins[f"{module}.weight"] = entry
    spec = match_projector({**shapes, **dict.fromkeys(stand_ins, (1, 1))}, checkpoint.model_type, pattern)
    for layer in spec.layers if spec else ():
        module = layer.weight.removesuffix(".weight")
        entry = stand_ins.get(layer.weight) or checkpoint.tensors[layer.weight]
        beside = next((BESIDE[leaf] for leaf in BESIDE if f"{module}.{leaf}" in shapes), None)
        scaled = any(f"{module}.{leaf}" in shapes for leaf in SCALES)
        foreign = entry.dtype in FLOAT8 and _settings(checkpoint).get("quant_method", "fp8") != "fp8"
        if layer.weight in stand_ins or beside or scaled or foreign:
            return module, entry, _scheme(checkpoint, beside or PACKED.get(entry.name.rpartition(".")[2]), entry)
    return None


def _scheme(checkpoint: Checkpoint, told: str | None, entry: TensorEntry) -> str:
    method = _settings(checkpoint).get("quant_method")
    return str(method)[:40] if method else told or f"stored as {entry.dtype}"


def _settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """config.json's quantization_config, which may lie in the text model's part."""
    text = checkpoint.config.get("text_config")
    for holder in (checkpoint.config, text if isinstance(text, Mapping) else {}):
        found = holder.get("quantization_config")
        if isinstance(found, Mapping):
            return found
    return {}


def _with_scales(checkpoint: Checkpoint) -> Checkpoint:
    settings = _settings(checkpoint)
    if settings.get("quant_method") != "fp8":
        return checkpoint
    block = settings.get("weight_block_size")
    sizes = tuple(block) if isinstance(block, list) and all(isinstance(n, int) and n > 0 for n in block) else ()
    derived, dropped = dict(checkpoint.derived), set()
    for key, entry in checkpoint.tensors.items():
        if entry.dtype not in FLOAT8 or not key.endswith(".weight"):
            continue
        scale = next((name for leaf in SCALES if (name := f"{key[:-6]}{leaf}") in checkpoint.tensors), None)
        if scale is None:
            continue
        spread = _Spread(checkpoint.tensors[scale], entry.shape, sizes)
        derived[key] = Derived(checkpoint, (key, scale), spread.decoder(key, scale), spread.encoder(key, scale))
        dropped |= {scale, f"{key[:-6]}input_scale", f"{key[:-6]}activation_scale"}
    kept = {key: entry for key, entry in checkpoint.tensors.items() if key not in dropped}
    return replace(checkpoint, tensors=kept, derived=derived, behind=checkpoint.files) if derived else checkpoint


class _Spread:
    """How a scale covers a weight: one for all, one a row, or one a block."""

    def __init__(self, scale: TensorEntry, shape: tuple[int, ...], block: tuple[int, ...]) -> None:
        self.shape = shape
        count = math.prod(scale.shape)
        rows = len(shape) == 2 and count == shape[0] and scale.shape in ((shape[0],), (shape[0], 1))
        blocks = len(block) == len(shape) == 2 and scale.shape == tuple(
            -(-side // part) for side, part in zip(shape, block, strict=True)
        )
        if not (count == 1 or rows or blocks):
            raise CheckpointError(
                f"{scale.file}: {scale.name} is {list(scale.shape)}, which does not fit a weight of {list(shape)} and "
                "config.json's weight_block_size; download the model again"
            )
        self.blocks = blocks and count > 1
        self.block = tuple(min(part, side) for part, side in zip(block, shape, strict=False))  # no room for lies

    def over(self, scale: torch.Tensor) -> torch.Tensor:
        """The scale, float32, so that it multiplies the weight."""
        scale = scale.float()
        if self.blocks:
            tall = scale.repeat_interleave(self.block[0], 0)[: self.shape[0]]
            return tall.repeat_interleave(self.block[1], 1)[:, : self.shape[1]]
        return scale.reshape(()) if scale.numel() == 1 else scale.reshape(-1, 1)

    def decoder(self, key: str, scale: str) -> Any:
        def decode(stored: Tensors) -> torch.Tensor:
            return stored[key].float() * self.over(stored[scale])

        return decode

    def encoder(self, key: str, scale: str) -> Any:
        def encode(value: torch.Tensor, stored: Tensors) -> dict[str, torch.Tensor]:
            return {key: value / self.over(stored[scale])}

        return encode
