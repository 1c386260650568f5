"""Seconds and memory of a scan without the probe on a directory the size of LLaVA-1.5-7B (14 GB, bf16, 3 shards).

    python -m eval.bench.large_scan

The shards are sparse files: full-size headers and offsets, real values only in the projector. The limits are those
of a gate in CI: a few seconds, under 1 GB of memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from projclean.checkpoint import INDEX

SECONDS_LIMIT, MEMORY_LIMIT_MB = 20.0, 1000.0
HIDDEN, VISION, LAYERS, INNER, VOCABULARY = 4096, 1024, 32, 11008, 32064


def shapes() -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of LLaVA-1.5-7B's language model, tower and projector."""
    found: dict[str, tuple[int, ...]] = {"language_model.model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        root = f"language_model.model.layers.{layer}"
        found |= {f"{root}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        found |= {f"{root}.mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        found[f"{root}.mlp.down_proj.weight"] = (HIDDEN, INNER)
    for layer in range(24):
        root = f"vision_tower.vision_model.encoder.layers.{layer}"
        found |= {f"{root}.self_attn.{name}_proj.weight": (VISION, VISION) for name in ("q", "k", "v", "out")}
        found |= {f"{root}.mlp.fc1.weight": (4 * VISION, VISION), f"{root}.mlp.fc2.weight": (VISION, 4 * VISION)}
    found["language_model.lm_head.weight"] = (VOCABULARY, HIDDEN)
    return found | {
        "multi_modal_projector.linear_1.weight": (HIDDEN, VISION),
        "multi_modal_projector.linear_1.bias": (HIDDEN,),
        "multi_modal_projector.linear_2.weight": (HIDDEN, HIDDEN),
        "multi_modal_projector.linear_2.bias": (HIDDEN,),
    }


def write_sparse(folder: Path, shards: int, seed: int) -> int:
    """A sharded directory with these shapes; returns its apparent size in bytes."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llava"}')
    names, weight_map, total = list(shapes().items()), {}, 0
    generator = torch.Generator().manual_seed(seed)
    for number in range(shards):
        file = folder / f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        values, offset = [], 0
        for name, shape in names[number * len(names) // shards : (number + 1) * len(names) // shards]:
            size = 2 * int(torch.Size(shape).numel())
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
            if "projector" in name:
                drawn = (0.02 * torch.randn(shape, generator=generator)).bfloat16()
                values.append((offset, drawn.view(torch.uint8).numpy().tobytes()))
            offset += size
            weight_map[name] = file.name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as handle:
            handle.write(len(text).to_bytes(8, "little") + text)
            for start, data in values:
                handle.seek(8 + len(text) + start)
                handle.write(data)
            handle.truncate(8 + len(text) + offset)
        total += offset
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return total


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        size = write_sparse(Path(temporary) / "base", 3, seed=0)
        write_sparse(Path(temporary) / "suspect", 3, seed=1)
        command = [sys.executable, "-m", "projclean.cli", "scan", f"{temporary}/suspect", "--base", f"{temporary}/base"]
        start = time.perf_counter()
        done = subprocess.run([*command, "--no-probe", "--format", "json"], stdout=subprocess.PIPE, check=False)
        seconds = time.perf_counter() - start
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    verdict = json.loads(done.stdout)["verdict"]["state"]
    print(f"{size / 1e9:.1f} GB, verdict {verdict}, exit {done.returncode}")
    print(f"wall {seconds:.1f} s (limit {SECONDS_LIMIT:g}), peak memory {megabytes:.0f} MB (limit {MEMORY_LIMIT_MB:g})")
    return 0 if seconds <= SECONDS_LIMIT and megabytes <= MEMORY_LIMIT_MB and done.returncode == 2 else 1


if __name__ == "__main__":
    sys.exit(main())
