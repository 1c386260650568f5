"""What a scan takes: passes and seconds measured on the tiny tier, and the same counted for LLaVA-1.5-7B.

    python -m eval.bench.scan_cost

No model of that size is run. Its vision tower, projector and language model are built without values (PyTorch's meta
device), and the multiplications of a pass are counted as PyTorch dispatches them, forward and back to the pixels, the
weights frozen. The passes are those of eval/results/tiny-*.json, every one counted as of a whole batch, forward and
back. Seconds follow from how fast this machine multiplies bfloat16 matrices of that model's size, measured in the same
run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from eval import options
from eval.scores import FURTHER, judged_in
from projclean.calibration import BATCH
from projclean.first_look import PLAIN

#: Tokens beside the image's: a prompt ("USER: … Describe the image. ASSISTANT:") and an answer.
TEXT = 40
#: Seconds for which multiplication is measured, and the shape (m, k, n): a batch of answers in a feed-forward layer.
MEASURED, SHAPE = 3.0, (BATCH * 616, 4096, 11008)
#: Dense bfloat16 FLOP/s of an H100 SXM by its data sheet, and the share of it that is assumed to be reached.
GPU, REACHED = 989e12, 0.4


@dataclass(frozen=True)
class Pass:
    """Floating-point operations (two for a multiplication and its addition) of a batch of images led along answers."""

    forward: int
    back: int


@dataclass(frozen=True)
class Took:
    """Medians over so many models."""

    passes: float
    seconds: float
    models: int


def counted(config: Any, images: int, text: int) -> Pass:
    """A pass of a LLaVA of this configuration, with so many tokens of text an image; back to the pixels."""
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config).to(torch.bfloat16).eval().requires_grad_(False)
        side = config.vision_config.image_size
        pixels = torch.empty(images, 3, side, side, dtype=torch.bfloat16, requires_grad=True)
        words = torch.empty(images, text, config.text_config.hidden_size, dtype=torch.bfloat16)
    counter = FlopCounterMode(display=False)
    with counter:
        seen = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[config.vision_feature_layer]
        tokens = model.model.multi_modal_projector(seen[:, 1:])
        inputs = torch.cat([tokens, words], 1)
        # A mask that is all there: one that is made asks for values, and here there are none.
        mask = torch.empty(images, 1, inputs.shape[1], inputs.shape[1], dtype=torch.bfloat16, device="meta")
        hidden = model.model.language_model(
            inputs_embeds=inputs, attention_mask=mask, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[:, -text:])
    forward = counter.get_total_flops()
    counter = FlopCounterMode(display=False)
    with counter:
        logits.sum().backward()
    return Pass(forward, counter.get_total_flops())


def llava_7b() -> Any:
    """LLaVA-1.5-7B: CLIP ViT-L/14 on 336 pixels and Vicuna 7B, whose sizes are transformers' defaults."""
    from transformers import LlavaConfig

    return LlavaConfig(attn_implementation="eager")


def rate(seconds: float = MEASURED, shape: tuple[int, int, int] = SHAPE) -> float:
    """bfloat16 FLOP/s of this machine, the best of as many products as fit in so many seconds."""
    rows, inner, columns = shape
    a, b = torch.randn(rows, inner).bfloat16(), torch.randn(inner, columns).bfloat16()
    best, until = 0.0, time.perf_counter() + seconds
    while not best or time.perf_counter() < until:
        begun = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * rows * inner * columns / (time.perf_counter() - begun))
    return best


def measured(folder: Path) -> dict[str, Took]:
    """By what is looked for, what the tiny models took that were measured on a CPU."""
    scans = judged_in(folder / "tiny-detection.json", "seed 0").values()
    parts = {
        "a scan that hears a foreign text at once": [row for row in scans if row["score"] >= PLAIN],
        "any other scan": [row for row in scans if row["score"] < PLAIN],
    }
    for option, name in FURTHER.items():
        parts[f"`{option}`, beside it"] = list(judged_in(folder / f"tiny-{name}.json", name).values())
    known = {
        part: [row for row in rows if row.get("device") == "cpu" and row.get("forward_passes") and row.get("seconds")]
        for part, rows in parts.items()
    }
    return {
        part: Took(median(row["forward_passes"] for row in rows), median(row["seconds"] for row in rows), len(rows))
        for part, rows in known.items() if rows
    }  # fmt: skip


def page(found: dict[str, Took], one: Pass, speed: float, threads: int) -> str:
    """The table, a row for everything that is looked for."""
    whole = one.forward + one.back
    lines = [
        "# What a scan takes, and what one of a model of seven billion parameters would",
        "",
        f"`python -m eval.bench.scan_cost`. Passes are of at most {BATCH} images; most go forward and back. On the "
        "tiny tier they are medians of the models that were measured on a CPU, one thread. A scan's have loading and "
        "the model that learns again in them; those of an option are beside a scan, without the model that learns "
        "again for a question.",
        "",
        f"A pass of LLaVA-1.5-7B ({TEXT} tokens of text an image beside its 576) takes {one.forward / 1e12:.0f} TFLOP "
        f"forward and {one.back / 1e12:.0f} back to the pixels, counted with PyTorch's FlopCounterMode; every pass is "
        f"counted as both, of {BATCH} images. This machine multiplies bfloat16 matrices of its size at "
        f"{speed / 1e12:.2f} TFLOP/s ({threads} threads, measured in this run); of an H100 "
        f"{REACHED:.0%} of its data sheet's {GPU / 1e12:.0f} are assumed. Neither was run.",
        "",
        "| | passes | seconds, tiny | PFLOP, 7B | hours on this machine | minutes on an H100 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, took in found.items():
        total = took.passes * whole
        lines.append(
            f"| {name} ({took.models} models) | {took.passes:.0f} | {took.seconds:.0f} | {total / 1e15:.0f} | "
            f"{total / speed / 3600:.0f} | {total / (REACHED * GPU) / 60:.0f} |"
        )
    return "\n".join([*lines, ""])


@click.command()
@options.out
def cost(out: Path) -> None:
    """Count what a scan takes, and write OUT/scan-cost.md."""
    text = page(measured(options.RESULTS), counted(llava_7b(), BATCH, TEXT), rate(), torch.get_num_threads())
    (out / "scan-cost.md").write_text(text, encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    cost()
