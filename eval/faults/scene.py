"""A model directory to repair, the output it should become, and the check that nothing in between is ever seen."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from projclean.checkpoint import INDEX, Checkpoint, open_checkpoint
from projclean.errors import ProjcleanError
from projclean.writer import write_model

if TYPE_CHECKING:
    import torch

WEIGHT = "multi_modal_projector.linear_1.weight"
ABSENT, OLD, COMPLETE = "absent", "old", "complete"
SMALL, MIDDLE, LARGE = 40_000, 1_000_000, 6_000_000  # bytes of a model

Tick = Callable[[], None]  # called after every trial


class Torn(AssertionError):
    """An output that is neither absent, nor the old one, nor complete; or an input that changed."""


@dataclass(frozen=True)
class Scene:
    """`parent` holds the source and will hold the output. `tensors` is what a repair replaces."""

    parent: Path
    source: Checkpoint
    tensors: dict[str, torch.Tensor]
    source_hash: str
    complete_hash: str

    @property
    def out(self) -> Path:
        return self.parent / "out"

    def repair(self, force: bool) -> None:
        """What every trial does: write the repaired model to `out`. Raises ProjcleanError."""
        write_model(self.source, self.tensors, self.out, "## Note", force)

    def state(self, old: str | None = None) -> str:
        """absent, old (its hash is given) or complete. Raises Torn, also when the source is not what it was."""
        if hash_tree(self.source.path) != self.source_hash:
            raise Torn("the source changed")
        if not self.out.exists():
            return ABSENT
        found = hash_tree(self.out)
        if found == self.complete_hash:
            return COMPLETE
        if found == old:
            return OLD
        raise Torn(f"the output holds {sorted(path.name for path in self.out.iterdir())} and is not complete")

    def leftovers(self) -> list[Path]:
        """What lies beside source and output."""
        return [path for path in self.parent.iterdir() if path not in (self.source.path, self.out)]


def make_scene(parent: Path, size: int) -> Scene:
    """A sound llava directory of about `size` bytes in three shards, and what its repair looks like."""
    import torch

    write_source(parent / "source", size, seed=0)
    source = open_checkpoint(parent / "source")
    tensors = {WEIGHT: torch.full(source.tensors[WEIGHT].shape, 0.25)}
    write_model(source, tensors, parent / "reference", "## Note", force=False)
    complete = hash_tree(parent / "reference")
    remove(parent / "reference")
    return Scene(parent, source, tensors, hash_tree(source.path), complete)


def write_source(folder: Path, size: int, seed: int) -> None:
    """The files of the source; another seed gives other values everywhere."""
    import torch
    from safetensors.torch import save_file

    (folder / "extra").mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        WEIGHT: (16, 12),
        "multi_modal_projector.linear_1.bias": (16,),
        "multi_modal_projector.linear_2.weight": (16, 16),
        "multi_modal_projector.linear_2.bias": (16,),
        "language_model.embed_tokens.weight": (max(size // 64, 1), 16),
        "language_model.lm_head.weight": (max(size // 64, 1), 16),
    }
    names = list(shapes)
    weight_map: dict[str, str] = {}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        part = {name: torch.randn(shapes[name], generator=generator).bfloat16() for name in names[number::3]}
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"seed": seed}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "seed": seed}))
    (folder / "tokenizer.json").write_text(json.dumps({"seed": seed, "pad": "x" * 5000}))
    (folder / "README.md").write_text("# A model\n")
    (folder / "extra" / "note.txt").write_text("kept")


def hash_tree(folder: Path) -> str:
    """SHA-256 over the paths and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def remove(path: Path) -> None:
    """A file, a link or a whole directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def prepare(scene: Scene, with_old: bool) -> str | None:
    """Take away what is there; put an old output there and return its hash."""
    for path in (scene.out, *scene.leftovers()):
        remove(path)
    if not with_old:
        return None
    scene.out.mkdir()
    (scene.out / "config.json").write_text("{}")
    (scene.out / "old.txt").write_text("old")
    return hash_tree(scene.out)


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a child; its exit code is 0, 3 for a documented error, 4 for any other."""
    child = os.fork()
    if child:
        return child
    code = 4
    try:
        work()
        code = 0
    except ProjcleanError:
        code = 3
    finally:
        os._exit(code)
