"""Finds a checkpoint's projector layers. The patterns are data, in projectors.toml."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from projclean.checkpoint import Checkpoint
from projclean.errors import CheckpointError, OptionError, ProjectorNotFound

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PREFIX = re.compile(r"^(?:base_model\.model\.|model\.|module\.)+")


@dataclass(frozen=True)
class LayerSpec:
    """One weight matrix: `name` is the same in every layout, `weight` and `bias` are this layout's keys.

    `shape` is (out, in) also where the tensor is stored transposed. `input_from` names the module whose output
    the matrix multiplies, where the matrix is not the weight of a module of its own.
    """

    name: str
    weight: str
    bias: str | None
    shape: tuple[int, int]
    transposed: bool = False
    input_from: str | None = None


@dataclass(frozen=True)
class ProjectorSpec:
    """A projector: its weight matrices in name order, and its remaining parameters (norms, queries)."""

    family: str
    layers: tuple[LayerSpec, ...]
    others: Mapping[str, str]

    @property
    def keys(self) -> frozenset[str]:
        """Every key of the checkpoint that belongs to the projector."""
        biases = {layer.bias for layer in self.layers if layer.bias}
        return frozenset({layer.weight for layer in self.layers} | biases | set(self.others.values()))


def canonical(key: str) -> str:
    """A tensor's name without the prefixes that differ between layouts."""
    return _PREFIX.sub("", key)


def alias(name: str) -> str:
    """A canonical name of a module or tensor as transformers has it, where an older naming is known."""
    for old, new in _aliases().items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def aligned(ours: ProjectorSpec, theirs: ProjectorSpec) -> tuple[ProjectorSpec, ProjectorSpec]:
    """Two projectors under the same names: as they are, or under transformers' where only one has an older naming."""
    if {layer.name for layer in ours.layers} == {layer.name for layer in theirs.layers}:
        return ours, theirs
    return _renamed(ours), _renamed(theirs)


def _renamed(spec: ProjectorSpec) -> ProjectorSpec:
    layers = tuple(replace(layer, name=alias(layer.name)) for layer in spec.layers)
    return replace(spec, layers=layers, others={alias(name): key for name, key in spec.others.items()})


def find_projector(checkpoint: Checkpoint, pattern: str | None = None) -> ProjectorSpec:
    """The projector of a checkpoint; `pattern` is a regular expression for its weight matrices.

    Raises ProjectorNotFound when nothing matches, OptionError when `pattern` is not a regular expression.
    """
    shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    spec = match_projector(shapes, checkpoint.model_type, pattern)
    if spec is None:
        sought = f"--projector {pattern!r} matches no matrix" if pattern else "no known projector"
        kind = f" (model_type {checkpoint.model_type})" if checkpoint.model_type else ""
        raise ProjectorNotFound(
            f"{checkpoint.path}: {sought}{kind}; name its weight matrices with --projector REGEX, "
            "as in --projector 'my_connector.*weight'"
        )
    _refuse_twins(checkpoint, spec)
    return spec


def _refuse_twins(checkpoint: Checkpoint, spec: ProjectorSpec) -> None:
    """Two tensors that claim one place: this scan would read one of them, and a loader perhaps the other."""
    names = {canonical(key): key for key in spec.keys}
    for key in checkpoint.tensors:
        twin = names.get(canonical(key), key)
        if twin != key:
            raise CheckpointError(f"{checkpoint.path}: holds both {key} and {twin}; remove the one that is not used")


def match_projector(
    shapes: Mapping[str, tuple[int, ...]], model_type: str | None, pattern: str | None = None
) -> ProjectorSpec | None:
    """Match tensor names and shapes against the known families; None when no family matches."""
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise OptionError(f"--projector {pattern!r}: not a regular expression ({error})") from error
        return _match(shapes, {"family": "--projector", "module": f".*(?:{pattern})", "layers": f".*(?:{pattern})"})
    families = _families()
    named = [entry for entry in families if model_type in entry["model_types"]]
    for entry in named or families:
        spec = _match(shapes, entry)
        if spec is not None:
            return spec
    return None


def _match(shapes: Mapping[str, tuple[int, ...]], entry: Mapping[str, Any]) -> ProjectorSpec | None:
    module = re.compile(entry["module"])
    matrices = re.compile(entry.get("layers", r".*\.weight$"))
    transposed = re.compile(entry.get("transposed", r"$^"))
    inside = {canonical(key): key for key in shapes if module.match(canonical(key))}
    layers, taken = [], set()
    for name in sorted(inside, key=_natural):
        shape = shapes[inside[name]]
        if len(shape) != 2 or not matrices.match(name):
            continue
        bias_key = _bias_of(inside[name], shapes)
        flip = bool(transposed.match(name))
        layers.append(
            LayerSpec(
                re.sub(r"\.weight$", "", name),
                inside[name],
                bias_key,
                (shape[1], shape[0]) if flip else (shape[0], shape[1]),
                flip,
                entry.get("input_from"),
            )
        )
        taken |= {inside[name], bias_key}
    if not layers:
        return None
    others = {name: key for name, key in inside.items() if key not in taken}
    return ProjectorSpec(entry["family"], tuple(layers), others)


def _bias_of(weight: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    bias = weight.removesuffix("weight") + "bias"
    return bias if weight.endswith("weight") and bias in shapes else None


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which layers.10 follows layers.9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


@cache
def _families() -> list[dict[str, Any]]:
    text = resources.files("projclean").joinpath("projectors.toml").read_text(encoding="utf-8")
    families: list[dict[str, Any]] = tomllib.loads(text)["projector"]
    return families


@cache
def _aliases() -> dict[str, str]:
    return {old: new for family in _families() for old, new in family.get("aliases", {}).items()}
