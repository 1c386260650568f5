"""Hostile adapters: a LoRA directory of which the settings, the tensors and their header may be anything."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from eval.fuzz.values import TEXTS, damaged, json_bytes, mutated

MODULES = ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2", "language_model.norm", "elsewhere", "")
PARTS = (
    "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B",
    "modules_to_save.weight", "base_layer.weight", "weight", "bias", "lora_A.default.weight", "lora_C",
)  # fmt: skip
SIDES = (0, 1, 2, 4, 6, 7)
BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I8": 1, "BOOL": 1, "F64": 8}


def adapter_files(rng: Random) -> dict[str, bytes]:
    """A rank-2 adapter of the small llava directory's projector, then changed here and there."""
    tensors: dict[str, tuple[str, list[int]]] = {}
    for module, (out, into) in zip(MODULES[:2], ((6, 4), (6, 6)), strict=True):
        if rng.random() < 0.8:
            tensors[f"base_model.model.{module}.lora_A.weight"] = ("F32", [2, into])
            tensors[f"base_model.model.{module}.lora_B.weight"] = ("F32", [out, 2])
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        name = rng.choice([f"base_model.model.{rng.choice(MODULES)}.{rng.choice(PARTS)}", rng.choice(TEXTS)])
        shape = [rng.choice(SIDES) for _ in range(rng.randrange(4))]
        tensors[name] = (rng.choice(list(BYTES)), shape)
    if tensors and rng.random() < 0.15:
        del tensors[rng.choice(list(tensors))]
    config: Any = {
        "peft_type": "LORA", "base_model_name_or_path": rng.choice(["base", *TEXTS]), "r": 2, "lora_alpha": 4,
        "use_rslora": rng.random() < 0.2, "use_dora": False, "lora_bias": rng.random() < 0.2, "bias": "none",
        "target_modules": ["linear_1", "linear_2"], "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None,
    }  # fmt: skip
    for _ in range(rng.choice([0, 0, 1, 3])):
        config = mutated(rng, config)
    weights = _safetensors(rng, tensors)
    if rng.random() < 0.15:
        weights = damaged(rng, weights)
    name = "adapter_model.safetensors" if rng.random() < 0.95 else "adapter_model.bin"
    return {"adapter_config.json": json_bytes(rng, config), name: weights}


def _safetensors(rng: Random, tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    header: dict[str, Any] = {}
    body = b""
    for name, (dtype, shape) in tensors.items():
        count = BYTES[dtype]
        for side in shape:
            count *= side
        part = rng.randbytes(count) if rng.random() < 0.1 else bytes([1]) * count  # random bytes hold NaN now and then
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(part)]}
        body += part
    data = json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data + body


def rewrite(folder: Path, base: Path, out: Path) -> None:
    """Halve the adapter's update and write it; what is written opens again. Raises ProjcleanError where it cannot."""
    from projclean import methods
    from projclean.case import open_case
    from projclean.storing import check_writable, rounded, stored_tensors
    from projclean.writer import write_model

    case = open_case(folder, str(base))
    check_writable(case)
    halved = rounded(case, methods.interpolate(case.update, 0.5))
    write_model(case.target.files, stored_tensors(case, halved), out, "## Note", force=False)
    open_case(out, str(base))
