"""The run-time norm clip: image tokens that reach the projector longer than clean ones do are scaled back.

ProjLens (arXiv 2604.19083) reports that a backdoor's shift grows with its input's norm; where a trigger acts through
the norm, clipping it stops the trigger. What depends on the input cannot be folded into a matrix, so a guard is a hook
on the live model, and in a model directory a sidecar of two files that whoever loads the model has to attach.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projclean.checkpoint import Checkpoint, read_header, read_json, read_tensor
from projclean.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from projclean.projectors import LayerSpec

SETTINGS, LIMITS = "projclean_guard.json", "projclean_guard.safetensors"
FORMAT, VERSION = "projclean-guard", 1
SIZE_LIMIT = 64 << 10  # bytes of the settings
MOST_LAYERS = 256
FIELDS = {"format", "version", "method", "percentile", "layers", "provenance"}
REMEDY = f"repair the model again, or remove {SETTINGS} and {LIMITS} to load it without its guard"
UNATTACHED = (
    f"it holds only where the guard of {SETTINGS} is attached, as projclean.load does; "
    "loaded by transformers alone the model runs without it, which was not probed"
)

_ATTACHED = "_projclean_guard_handles"


@dataclass(frozen=True)
class Guard:
    """Limits of the norm of what enters projector layers, by the layers' names (`projectors.LayerSpec.name`).

    They are the `percentile` (0–100) of the norms on clean images; `provenance` tells where they come from.
    """

    limits: Mapping[str, float]
    percentile: float
    provenance: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """In words."""
        most = ", ".join(f"{limit:.4g} at {name}" for name, limit in self.limits.items())
        return f"norm clip at the percentile {self.percentile:g} of clean image tokens ({most})"


def clip(x: torch.Tensor, limit: float) -> torch.Tensor:
    """Rows of x (…, in) scaled down to norm `limit` where they are longer; the others bit for bit as they were."""
    norms = x.float().norm(dim=-1, keepdim=True)
    return x * (limit / norms.clamp_min(1e-12)).clamp_max(1.0).to(x.dtype)


def attach(model: nn.Module, guard: Guard, layers: Mapping[str, LayerSpec] | None = None) -> None:
    """Clip what enters the projector of a live transformers model, in every forward pass, until `detach`.

    A guard that was attached before is replaced. `layers` are the model's projector layers by name, found by their
    usual names when not given. Raises ModelError when the guard names a layer that the model does not have.
    """
    from projclean.hooks import hook

    known = _layers(model) if layers is None else layers
    missing = [name for name in guard.limits if name not in known]
    if missing:
        raise ModelError(f"{SETTINGS}: guards {missing[0]}, which this model's projector does not have; {REMEDY}")
    detach(model)
    handles = [hook(model, known[name], _clipping(limit)) for name, limit in guard.limits.items()]
    setattr(model, _ATTACHED, handles)


def detach(model: nn.Module) -> None:
    """Run the model without a guard from now on; nothing happens when it has none."""
    for handle in model.__dict__.pop(_ATTACHED, ()):
        handle.remove()


def read_guard(folder: Path) -> Guard | None:
    """The guard of a model directory, which nobody vouches for; None when it has none.

    Raises CheckpointError for half a guard, for other fields, layers or types than `sidecar` writes, and for limits
    that are not above zero.
    """
    if not any(os.path.lexists(folder / name) for name in (SETTINGS, LIMITS)):
        return None
    settings = read_json(folder / SETTINGS, REMEDY, SIZE_LIMIT)
    if settings.get("format") != FORMAT or type(settings.get("version")) is not int:
        raise CheckpointError(f"{folder / SETTINGS}: is no guard of projclean; {REMEDY}")
    if settings["version"] != VERSION:
        raise CheckpointError(
            f"{folder / SETTINGS}: is of version {settings['version']}, this projclean reads {VERSION}; "
            "load it with the projclean that wrote it"
        )
    problem = _problem(settings)
    if problem:
        raise CheckpointError(f"{folder / SETTINGS}: {problem}; {REMEDY}")
    limits = _limits(folder / LIMITS, settings["layers"], folder)
    return Guard(limits, float(settings["percentile"]), settings["provenance"])


def sidecar(guard: Guard) -> dict[str, bytes]:
    """The two files of a guard, by name."""
    import torch
    from safetensors.torch import save

    settings = {
        "format": FORMAT,
        "version": VERSION,
        "method": "clip",
        "percentile": guard.percentile,
        "layers": list(guard.limits),
        "provenance": dict(guard.provenance),
    }
    limits = {name: torch.tensor([limit], dtype=torch.float32) for name, limit in guard.limits.items()}
    return {SETTINGS: (json.dumps(settings, indent=2) + "\n").encode(), LIMITS: save(limits, {"format": FORMAT})}


def _problem(settings: Mapping[str, Any]) -> str | None:
    """What is wrong with the settings of a guard of this version."""
    if set(settings) != FIELDS:
        return f"has other fields than {', '.join(sorted(FIELDS))}"
    if settings["method"] != "clip":
        return "names another method than clip"
    percentile, layers, provenance = settings["percentile"], settings["layers"], settings["provenance"]
    if type(percentile) not in (int, float) or not 0 < percentile <= 100:
        return "its percentile must be a number above 0 and up to 100"
    if not isinstance(layers, list) or not all(isinstance(name, str) and name for name in layers):
        return "its layers must be a list of names"
    if not 0 < len(set(layers)) == len(layers) <= MOST_LAYERS:
        return f"it must name 1 to {MOST_LAYERS} layers, each once"
    if not isinstance(provenance, dict) or not all(type(value) in (str, int) for value in provenance.values()):
        return "its provenance must be a map of texts and whole numbers"
    return None


def _limits(file: Path, layers: list[str], root: Path) -> dict[str, float]:
    entries = read_header(file, root)
    if set(entries) != set(layers):
        raise CheckpointError(f"{file}: holds other layers than {SETTINGS} names; {REMEDY}")
    limits = {}
    for name in layers:
        if (entries[name].dtype, entries[name].shape) != ("F32", (1,)):
            raise CheckpointError(f"{file}: a limit is one F32 number; {REMEDY}")
        limits[name] = read_tensor(Checkpoint(file, entries), name).item()
        if not (math.isfinite(limits[name]) and limits[name] > 0):
            raise CheckpointError(f"{file}: a limit must be a number above 0; {REMEDY}")
    return limits


def _clipping(limit: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: clip(x, limit)


def _layers(model: nn.Module) -> dict[str, LayerSpec]:
    from projclean.projectors import match_projector

    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    spec = match_projector(shapes, getattr(getattr(model, "config", None), "model_type", None))
    return {layer.name: layer for layer in spec.layers} if spec else {}
