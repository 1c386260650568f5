"""An adapter laid over its base: as a checkpoint that can be compared, and in a model that can be run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from projclean.adapter import Adapter, Change
from projclean.checkpoint import Checkpoint, read_tensor
from projclean.derived import Derived
from projclean.errors import MismatchError, OutputError
from projclean.merging import change_weight, express, read_sources
from projclean.projectors import canonical, other_names

if TYPE_CHECKING:
    import torch

    from projclean.derived import Tensors
    from projclean.model import Runner


def lay_over(adapter: Adapter, base: Checkpoint) -> Checkpoint:
    """The base as the adapter changes it. Nothing is computed before a tensor is read.

    Raises MismatchError when the base has none of the parameters that the adapter changes.
    """
    places = place(adapter, base.tensors)
    if adapter.changes and not places:
        raise MismatchError(
            f"{adapter.path}: adapts {next(iter(adapter.changes))}, which {base.path} does not have; "
            "pass the base that this adapter was tuned from"
        )
    derived, entries = dict(base.derived), dict(base.tensors)
    for name, key in places.items():
        change = adapter.changes[name]
        file = adapter.files.tensors[change.sources[0]].file
        entries[key] = replace(base.tensors[key], file=file)
        derived[key] = Derived(
            adapter.files,
            change.sources,
            partial(_decode, adapter, base, name, key),
            partial(_encode, adapter, base, name, key) if change.invertible and file.suffix == ".safetensors" else None,
        )
    return Checkpoint(adapter.path, entries, base.config, derived=derived, behind=adapter.files, adapter=adapter)


def place(adapter: Adapter, names: Iterable[str]) -> dict[str, str]:
    """The adapter's parameters among `names`, which may be saved or live names; those not found are left out.

    Layouts differ in where they have a component `model`, and in the names of some projectors (projectors.toml).
    Raises MismatchError when two of the adapter's parameters are one of `names`.
    """
    names = list(names)
    known: dict[str, set[str]] = {}
    for key in names:
        known.setdefault(_loose(key), set()).add(key)
    if not all(_loose(name) in known for name in adapter.changes):  # one of the two may have an older naming
        for key in names:
            for other in other_names(canonical(key)):
                known.setdefault(_loose(other), set()).add(key)
    found = {}
    for name in adapter.changes:
        keys = known.get(_loose(name)) or set().union(*(known.get(_loose(o), ()) for o in other_names(canonical(name))))
        if len(keys) == 1:
            found[name] = next(iter(keys))
    if len(set(found.values())) < len(found):
        raise MismatchError(f"{adapter.path}: changes one parameter under two names; do not trust this adapter")
    return found


def adapted_elsewhere(adapter: Adapter, base: Checkpoint, projector_keys: Collection[str]) -> list[str]:
    """One line for every module outside the projector that the adapter changes, and for what could not be read."""
    places = place(adapter, base.tensors)
    modules = {name.rpartition(".")[0] for name in adapter.changes if places.get(name) not in projector_keys}
    found = [f"module {module}: changed by the adapter" for module in sorted(modules)]
    return found + [f"adapter tensor {key}: not understood, not applied" for key in sorted(adapter.unread)]


def put_in(runner: Runner, adapter: Adapter, done: Collection[str]) -> list[str]:
    """Apply the adapter to a base's live model, but for the parameters `done`; names that have no place in it."""
    places = place(adapter, runner.parameter_names())
    left_out = []
    for name, change in adapter.changes.items():
        if name in done:
            continue
        try:
            runner.change_parameter(places[name], partial(_applied, adapter, change))
        except (KeyError, ValueError):  # not in the model, or in another shape there (fused, say)
            left_out.append(name)
    return left_out


def _applied(adapter: Adapter, change: Change, base: torch.Tensor) -> torch.Tensor:
    return change_weight(base, change, read_sources(adapter, change))


def _decode(adapter: Adapter, base: Checkpoint, name: str, key: str, stored: Tensors) -> torch.Tensor:
    try:
        return change_weight(read_tensor(base, key), adapter.changes[name], stored)
    except ValueError as error:
        raise MismatchError(
            f"{adapter.path}: {name}: {error}; pass the base that this adapter was tuned from"
        ) from error


def _encode(
    adapter: Adapter, base: Checkpoint, name: str, key: str, value: torch.Tensor, stored: Tensors
) -> dict[str, torch.Tensor]:
    try:
        return express(value, read_tensor(base, key), adapter.changes[name], stored)
    except ValueError as error:
        raise OutputError(
            f"{adapter.path}: {name}: {error}; merge it into its base with PEFT and repair the merged directory"
        ) from error


def _loose(name: str) -> str:
    parts = [part for part in name.split(".") if part not in ("model", "base_model", "module")]
    return ".".join(parts)
