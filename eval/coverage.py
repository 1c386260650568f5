"""Does projclean find and repair the projector of every model type, in every layout? Writes docs/projectors.md.

    python -m eval.coverage [MODEL_TYPE ...]

A tiny random model of each type is saved as its own base; a rank-2 update is planted in every layer of its projector,
and the suspect is saved under the names transformers writes and under those in memory, in one file and in shards.
Scanned: exactly the projector's layers are found and the planted subspace is recovered. Repaired: with the subspace
projected out and the directory written, transformers loads it, and nothing outside the projector has changed a byte.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eval.architectures import architectures, build, layer_parameters
from eval.coverage_page import DOCUMENT, LAYOUTS, Row, document
from projclean import methods
from projclean.case import Case, open_case
from projclean.checkpoint import open_checkpoint, read_tensor
from projclean.projectors import LayerSpec, ProjectorSpec, guess_projector, match_projector
from projclean.storing import stored_tensors
from projclean.subspace import principal_angles, truncated_svd
from projclean.update import LayerUpdate
from projclean.writer import CARD, write_model

RANK = 2
DEGREES = {torch.float32: 1.0, torch.bfloat16: 3.0}

#: A weight in memory and the rows of it that are one layer.
Place = tuple[str, tuple[int, int] | None]


def examine(model_type: str, folder: Path, dtype: torch.dtype = torch.float32) -> Row:
    """Build, plant, scan and repair one model type in every layout, in an empty folder."""
    model = build(model_type).to(dtype)
    save(model, folder / "base", model_type, "saved", sharded=False)
    planted = plant(model, layer_parameters(model, model_type))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    spec = match_projector(shapes, model.config.model_type)
    results = []
    for names, sharded in LAYOUTS:
        suspect = folder / f"{names}{' sharded' if sharded else ''}"
        save(model, suspect, model_type, names, sharded)
        case = open_case(suspect, str(folder / "base"))
        scanned = spec is not None and recovers(case, places(spec), planted, DEGREES[dtype])
        results.append((scanned, scanned and repairs(case, model, folder / "repaired")))
    if spec is None:
        return Row(model_type, "not found", 0, "", "", tuple(results))
    kinds = ", ".join(dict.fromkeys(_kind(layer, model) for layer in spec.layers))
    guess = compare(guess_projector(shapes), spec)
    return Row(model_type, spec.family, len(spec.layers), kinds, guess, tuple(results))


def save(model: Any, folder: Path, model_type: str, names: str, sharded: bool) -> None:
    """Save a model under the names transformers writes or under those in memory, in one file or in about three."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.save_pretrained(
        folder, save_original_format=names == "saved", max_shard_size=size // 3 if sharded else 2 * size + 10**6
    )
    for name in architectures()[model_type].get("files", ()):
        torch.save({}, folder / name)


@torch.no_grad()
def plant(model: nn.Module, names: list[str], seed: int = 1) -> dict[Place, torch.Tensor]:
    """Add a rank-2 update, half as large as the weight, to every layer; its right singular space (in, 2) by place."""
    generator = torch.Generator().manual_seed(seed)
    planted: dict[Place, torch.Tensor] = {}
    for name in names:
        parameter = model.get_parameter(name)
        for rows, part in _parts(name, parameter):
            flip = _multiplied_from_the_right(model, name)
            matrix = (part.T if flip else part.flatten(1)).float()
            left = torch.linalg.qr(torch.randn(matrix.shape[0], RANK, generator=generator))[0]
            right = torch.linalg.qr(torch.randn(matrix.shape[1], RANK, generator=generator))[0]
            update = 0.5 * matrix.norm().clamp_min(1.0) * left @ torch.diag(torch.tensor([1.0, 0.7])) @ right.T
            part += (update.T if flip else update).reshape(part.shape).to(part)
            planted[name, rows] = right
    return planted


def compare(guess: ProjectorSpec | None, spec: ProjectorSpec) -> str:
    """How good a guess from the shapes alone would be, the names unknown."""
    if guess is None:
        return "none"
    found, wanted = ({layer.weight for layer in one.layers} for one in (guess, spec))
    if found == wanted:
        return "exact"
    if not found & wanted:
        return "wrong"
    return "more" if found > wanted else "part"


def places(spec: ProjectorSpec) -> dict[str, Place]:
    """Layer names to where they lie in a model in memory."""
    return {layer.name: (layer.weight, layer.rows) for layer in spec.layers}


def recovers(case: Case, where: Mapping[str, Place], planted: Mapping[Place, torch.Tensor], degrees: float) -> bool:
    """Are the layers found exactly those planted, with the planted subspaces on top and nothing else changed?"""
    found = {where.get(layer.name): layer for layer in case.update.layers}
    if set(found) != set(planted) or case.update.other_changes:
        return False
    return all(
        principal_angles(truncated_svd(layer.delta, RANK)[2], planted[place]).max().item() < degrees
        for place, layer in found.items()
        if place is not None
    )


def repairs(case: Case, model: Any, out: Path) -> bool:
    """Project the update out and write the model: does it load with the base's layers, all else as in the suspect?"""
    weights = methods.project(case.update, methods.suspicious_directions(case.update, {}, RANK))
    write_model(case.suspect, stored_tensors(case, weights), out, "repaired", force=True)
    written = open_checkpoint(out)
    for key in set(case.suspect.tensors) - case.spec.keys:
        if not _same_bytes(read_tensor(case.suspect, key), read_tensor(written, key)):
            return False
    beside = [file for file in case.suspect.path.iterdir() if file.suffix != ".safetensors" and file.name != CARD]
    if any(file.read_bytes() != (out / file.name).read_bytes() for file in beside):
        return False
    loaded = type(model).from_pretrained(out)
    spec = match_projector({name: tuple(p.shape) for name, p in loaded.named_parameters()}, loaded.config.model_type)
    assert spec is not None
    updates = {layer.name: layer for layer in case.update.layers}
    layers = {layer.weight for layer in spec.layers}
    return all(_undone(_live_matrix(loaded, layer), updates[layer.name]) for layer in spec.layers) and all(
        torch.equal(parameter, loaded.get_parameter(name))
        for name, parameter in model.named_parameters()
        if name not in layers
    )


def _parts(name: str, parameter: torch.Tensor) -> list[tuple[tuple[int, int] | None, torch.Tensor]]:
    """The layers in one weight: query, key and value rows of torch's own attention, else the whole."""
    if not name.endswith("in_proj_weight"):
        return [(None, parameter)]
    third = parameter.shape[0] // 3
    return [((n * third, (n + 1) * third), parameter[n * third : (n + 1) * third]) for n in range(3)]


def _multiplied_from_the_right(model: nn.Module, name: str) -> bool:
    """Tables, and bare parameters that are no fused attention weight, are (in, out)."""
    module, _, leaf = name.rpartition(".")
    return isinstance(model.get_submodule(module), nn.Embedding) or leaf.endswith("projection_weight")


def _live_matrix(model: nn.Module, layer: LayerSpec) -> torch.Tensor:
    stored = model.get_parameter(layer.weight).detach().float()
    part = stored if layer.rows is None else stored[layer.rows[0] : layer.rows[1]]
    return part.T if _multiplied_from_the_right(model, layer.weight) else part.flatten(1)


def _undone(found: torch.Tensor, layer: LayerUpdate) -> bool:
    """Is a repaired matrix the base's again, up to a hundredth of the update?"""
    return found.shape == layer.base.shape and bool((found - layer.base).norm() < 0.01 * layer.delta.norm())


def _same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _kind(layer: LayerSpec, model: nn.Module) -> str:
    if layer.rows is not None:
        return "rows of a fused tensor"
    if layer.transposed:
        return "stored transposed"
    return "convolution" if model.get_parameter(layer.weight).ndim > 2 else "linear"


def main(types: list[str]) -> int:
    rows = []
    for model_type in types or list(architectures()):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(examine(model_type, Path(folder)))
        print(rows[-1], flush=True)
    if not types:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(document(rows), encoding="utf-8")
        print(f"written to {DOCUMENT}")
    return 0 if all(row.works for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
