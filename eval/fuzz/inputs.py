"""Hostile inputs: what somebody who controls every byte of a model directory could ship.

`lay_out(kind, rng, folder)` writes one input of a kind into an empty folder. Everything is drawn from `rng`, so that
a kind and a seed name an input.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from eval.fuzz.lora import adapter_files
from eval.fuzz.values import TEXTS, damaged, json_bytes, junk, mutated
from projclean.checkpoint import INDEX, SINGLE
from projclean.header import BITS

BARE = "projector.safetensors"
PAIRS = list(zip("abcdefgh", "bcdefghi", strict=True))  # every letter refers nine times to the one before it


@cache
def good_files(shards: int) -> dict[str, bytes]:
    """A small, sound llava directory as bytes by name."""
    header: dict[str, Any] = {}
    shapes = {"linear_1.weight": [6, 4], "linear_1.bias": [6], "linear_2.weight": [6, 6], "linear_2.bias": [6]}
    names = {f"multi_modal_projector.{name}": shape for name, shape in shapes.items()}
    names |= {"language_model.norm.weight": [6], "vision_tower.patch.weight": [4, 3, 1, 1]}
    files: dict[str, bytes] = {"config.json": b'{"model_type": "llava", "text_config": {"hidden_size": 6}}'}
    weight_map = {}
    for number in range(shards):
        rng, header, body = Random(number), {"__metadata__": {"format": "pt"}}, b""
        file = SINGLE if shards == 1 else f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        for name in list(names)[number::shards]:
            count = 1
            for side in names[name]:
                count *= side
            part = b"".join(rng.choice([0x3F80, 0xBF00, 0x3DCC]).to_bytes(2, "little") for _ in range(count))
            header[name] = {"dtype": "BF16", "shape": names[name], "data_offsets": [len(body), len(body) + len(part)]}
            body += part
            weight_map[name] = file
        files[file] = packed(header, body)
    if shards > 1:
        files[INDEX] = json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}).encode()
    files["README.md"] = b"---\nbase_model: base\ntags: [a, b]\n---\n# A model\n"
    files["tokenizer.json"] = b"{}"
    return files


def packed(header: Any, body: bytes, text: bytes | None = None) -> bytes:
    """A safetensors file from a header value, or from a header's text."""
    data = json.dumps(header).encode() if text is None else text
    return len(data).to_bytes(8, "little") + data + body


def unpacked(data: bytes) -> tuple[Any, bytes]:
    """Header value and body of a sound safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Files by name."""
    for name, data in files.items():
        (folder / name).write_bytes(data)


# -- kinds of input -------------------------------------------------------------------------------------------


def header(rng: Random, folder: Path) -> None:
    """A bare projector file whose header lies."""
    value, body = unpacked(good_files(1)[SINGLE])
    value = {key: item for key, item in value.items() if "projector" in key or rng.random() < 0.5}
    if rng.random() < 0.3:
        value = drawn_header(rng)
        body = bytes(rng.choice([0, 16, 64, 400]))
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        value = mutated(rng, value)
    if rng.random() < 0.5:  # make the cover fit, so that the lie is elsewhere
        end = _stop(value)
        body = (body * (1 + end // max(len(body), 1)))[:end] if end < 1 << 16 else body
    data = packed(value, body, json_bytes(rng, value))
    if rng.random() < 0.1:
        data = rng.choice([0, 7, 8, 2**32, 2**40, 2**64 - 1, len(data)]).to_bytes(8, "little") + data[8:]
    (folder / BARE).write_bytes(data)


def drawn_header(rng: Random) -> dict[str, Any]:
    """A header from nothing: random tensors, side by side more often than not."""
    value: dict[str, Any] = {}
    at = 0
    for _ in range(rng.randrange(6)):
        shape = [rng.choice([0, 1, 2, 3, 8, 2**20, 2**40]) for _ in range(rng.randrange(4))]
        dtype, count = rng.choice([*BITS, "F32", "BF16", "F128"]), 1
        for side in shape:
            count *= side
        size = count * BITS.get(dtype, 8) // 8
        start = at + rng.choice([0, 0, 0, 0, 1, -1])
        name = rng.choice([*TEXTS, "multi_modal_projector.linear_1.weight", "multi_modal_projector.linear_1²3.weight"])
        value[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        at = start + size
    return value


def _stop(value: Any) -> int:
    try:
        return max(int(item["data_offsets"][1]) for key, item in value.items() if key != "__metadata__")
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
        return 0


def index(rng: Random, folder: Path) -> None:
    """A sharded directory whose index lies."""
    files = dict(good_files(3))
    value = json.loads(files[INDEX])
    shards = [name for name in files if name.endswith(".safetensors")]
    for _ in range(rng.choice([1, 1, 2, 3])):
        if rng.random() < 0.5:
            value = mutated(rng, value)
        elif isinstance(value, dict) and isinstance(value.get("weight_map"), dict) and value["weight_map"]:
            key = rng.choice(list(value["weight_map"]))
            value["weight_map"][key] = rng.choice([*shards, *TEXTS, f"../{shards[0]}", "/" + shards[0], "x.bin"])
    if rng.random() < 0.2:
        files[rng.choice(shards)] = files[rng.choice(shards)]
    if rng.random() < 0.1:
        del files[rng.choice(shards)]
    files[INDEX] = json_bytes(rng, value)
    write(folder, files)


def config(rng: Random, folder: Path) -> None:
    """A directory whose config.json is anything."""
    files = dict(good_files(rng.choice([1, 3])))
    value: Any = {
        "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "_name_or_path": "base",
        "auto_map": {"AutoConfig": "evil.Config"}, "text_config": {"hidden_size": 6}, "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "gptq"},
    }  # fmt: skip
    if rng.random() < 0.2:
        value["transformers_weights"] = rng.choice(TEXTS)
    for _ in range(rng.randrange(5)):
        value = mutated(rng, value)
    files["config.json"] = json_bytes(rng, value)
    del files["README.md"]
    write(folder, files)


def adapter(rng: Random, folder: Path) -> None:
    """A directory with an adapter_config.json that is anything."""
    files = dict(good_files(1))
    value: Any = {"base_model_name_or_path": rng.choice([*TEXTS, "base"]), "r": 8, "peft_type": "LORA"}
    for _ in range(rng.randrange(3)):
        value = mutated(rng, value)
    files["adapter_config.json"] = json_bytes(rng, value)
    if rng.random() < 0.1:
        files[rng.choice(["adapter_model.safetensors", "adapter_model.bin"])] = files[SINGLE]
    write(folder, files)


def lora(rng: Random, folder: Path) -> None:
    """An adapter directory."""
    write(folder, adapter_files(rng))


def card(rng: Random, folder: Path) -> None:
    """A model card whose front matter is anything, YAML's own traps among it."""
    files = dict(good_files(1))
    name = rng.choice([*TEXTS, "base"])
    fronts: list[Callable[[], str]] = [
        lambda: f"base_model: {name}",
        lambda: f"base_model: {json.dumps(name)}",
        lambda: f"base_model: [{json.dumps(name)}, base]",
        lambda: f"base_model: {json.dumps(junk(rng))}",
        lambda: "a: &a [x,x]\n" + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in PAIRS),
        lambda: "a: &a {k: v}\n" + "".join(f"{c}: &{c} {{<<: [{','.join([f'*{p}'] * 9)}]}}\n" for p, c in PAIRS),
        lambda: "base_model: &a [*a]",
        lambda: "base_model: " + "[" * rng.choice([20, 20, 20, 50, 50, 3000]),
        lambda: "? {a: b}\n: c\n? [x]\n: y",
        lambda: "base_model: !!python/object/apply:os.system ['true']",
        lambda: "base_model: " + rng.choice(["2026-13-45", "0x" + "f" * 5000, "1:" * 500, "9" * 6000, "!!binary x"]),
        lambda: "base_model: base\n" + "# x\n" * rng.choice([10, 10, 10, 40_000]),
    ]  # fmt: skip
    text = "---\n" + rng.choice(fronts)() + rng.choice(["\n---\n# Card\n", "\n", "\n---", "\n...\n---\n"])
    data = text.encode("utf-8", "surrogatepass")
    files["README.md"] = damaged(rng, data) if rng.random() < 0.4 else data
    write(folder, files)


def evalset(rng: Random, folder: Path) -> None:
    """An EVAL.toml, its metadata and its images."""
    text = (
        '[clean]\nimages = "clean"\nmatch = "exact"\n\n[[attack]]\nname = "badnet"\nimages = "clean"\n'
        'target = "you have been hacked"\nmatch = "contains"\n\n[generate]\nmax_new_tokens = 16\n'
    )
    rows: list[Any] = [{"file_name": "a.png", "question": "What?", "answer": "this"} for _ in range(2)]
    where = rng.randrange(3)
    toml = text.encode()
    if where == 0:
        old = rng.choice(['"clean"', "16", '"exact"', "[generate]", "[[attack]]", "[clean]", '"contains"', "target"])
        new = rng.choice(
            [json.dumps(junk(rng)), "[" * 3000, "a." * 3000 + "b = 1", "0x" + "f" * 5000, "inf", "1979-05-27"]
        )
        toml = text.replace(old, new, 1).encode("utf-8", "surrogatepass")
    elif where == 1:
        toml = damaged(rng, toml)
    else:
        rows = [mutated(rng, row) for row in rows]
    write(folder, {"EVAL.toml": toml})
    clean = folder / "clean"
    clean.mkdir()
    lines = b"\n".join(json_bytes(rng, row) if where == 2 else json.dumps(row).encode() for row in rows)
    (clean / "metadata.jsonl").write_bytes(lines)
    (clean / "a.png").write_bytes(picture_bytes("PNG"))


@cache
def picture_bytes(form: str) -> bytes:
    """A small sound picture."""
    from PIL import Image

    held = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(held, form)
    return held.getvalue()


def picture(rng: Random, folder: Path) -> None:
    """A picture that is damaged, claims to be huge, or is something else."""
    data = picture_bytes(rng.choice(["PNG", "JPEG", "WEBP", "BMP"]))
    how = rng.randrange(4)
    if how == 0:
        data = rng.choice(
            [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a" + data[6:], b"<svg/>", b"", b"RIFF"]
        )
    elif how == 1:  # a PNG of any claimed size; Pillow checks the checksum when it reads the data
        side = rng.choice([1, 60_000, 20_000, 2**31 - 1, 0])
        chunk = b"IHDR" + side.to_bytes(4, "big") + rng.choice([1, side]).to_bytes(4, "big") + b"\x08\x02\0\0\0"
        data = data[:8] + b"\0\0\0\x0d" + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[33:]
    else:
        data = damaged(rng, data)
    (folder / rng.choice(["a.png", "a.jpg", "a.bmp", "a.webp"])).write_bytes(data)


def layout(rng: Random, folder: Path) -> None:
    """A directory with links, FIFOs, directories in place of files, and names that forge output."""
    files = dict(good_files(rng.choice([1, 3])))
    write(folder, files)
    for _ in range(rng.choice([1, 1, 2, 3])):
        path = folder / rng.choice(
            [*files, "extra", "line\nerror: forged.py", "\x1b[2J.jinja", "\u202e.py", "[red].py", "sub"]
        )
        if os.path.lexists(path) and not (path.is_dir() and not path.is_symlink()):
            path.unlink()
        if os.path.lexists(path):
            continue
        how = rng.randrange(9)
        if how == 0:
            os.mkfifo(path)
        elif how == 1:
            path.mkdir()
        elif how == 2:
            path.symlink_to(rng.choice(["/etc/passwd", "/dev/zero", "../secret", "/proc/self/mem", "/"]))
        elif how == 3:
            path.symlink_to(rng.choice(["config.json", ".", "..", path.name, "nowhere", "tokenizer.json"]))
        elif how == 4:
            inner = path
            for _ in range(rng.choice([2, 40])):
                inner.mkdir()
                inner = inner / "d"
        elif how == 5:
            path.write_bytes(b"")
        elif how == 6:
            with path.open("wb") as handle:  # sparse: large by its size, nothing on the disk
                handle.truncate(rng.choice([1 << 20, 1 << 40]))
        elif how == 7:
            path.write_bytes(damaged(rng, files.get(path.name, b"x")))


def contents(rng: Random, folder: Path) -> None:
    """A sound directory with bytes of one file damaged."""
    files = dict(good_files(rng.choice([1, 3])))
    name = rng.choice([*files, *(file for file in files if file.endswith(".safetensors"))])
    files[name] = damaged(rng, files[name])
    write(folder, files)


KINDS: dict[str, Callable[[Random, Path], None]] = {
    "header": header, "index": index, "config": config, "adapter": adapter, "lora": lora, "card": card,
    "evalset": evalset, "picture": picture, "layout": layout, "contents": contents,
}  # fmt: skip


def lay_out(kind: str, rng: Random, folder: Path) -> None:
    """Write one hostile input of a kind into an empty folder."""
    KINDS[kind](rng, folder)
