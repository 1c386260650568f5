"""Models ready to be asked: whole directories with their guards, and bases with a projector or an adapter put in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from projclean.access import Access
from projclean.adapter import Adapter
from projclean.case import open_case, open_suspect, overlay
from projclean.errors import ModelError
from projclean.model import Runner


def load(
    model: str | Path,
    base: str | None = None,
    projector: str | None = None,
    device: str | None = None,
    allow_pickle: bool = False,
    download: bool = False,
) -> tuple[Any, Any]:
    """A model and its processor, through transformers, with the guard attached when the directory has one.

    Bare projectors are put into `base`; an adapter may name its own. `projclean.guard.detach(model)` takes the guard
    off again. The parameters are frozen. allow_pickle and download are as in `scan`. Raises ProjcleanError.
    """
    runner = load_runner(model, base, projector, device, Access(allow_pickle, download))
    return runner.model, runner.processor


def load_runner(
    model: str | Path, base: str | None, projector: str | None, device: str | None, access: Access
) -> Runner:
    """A runner around a model directory, or the base of a bare projector or an adapter. Raises ProjcleanError."""
    opened = open_suspect(model, projector, access)
    if not isinstance(opened, Adapter) and not opened.is_bare:
        return Runner(opened, projector, device)
    case = open_case(model, base, projector, access)
    runner = Runner(case.model, projector, device)
    left_out = overlay(runner, case)
    if left_out:
        raise ModelError(f"{model}: {left_out[0]} has no place in the loaded base; merge the adapter with PEFT")
    return runner
