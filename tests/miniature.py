"""The shipped models under a probe cut down to a second or two: for tests of what is done with a score."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eval import shapes
from eval.zoo import SHIPPED
from projclean import calibration, scanner
from projclean.case import Bench, Case, open_case, set_up
from projclean.methods import suspect_weights
from projclean.probe_settings import ProbeSettings

BASE = SHIPPED / "base"
SMALL = partial(ProbeSettings, starts=1, more=0, excite=4, steps=4, whole=2, partings=0, max_new_tokens=8)


def few_images(patch: pytest.MonkeyPatch) -> None:
    """A dozen built-in images, chosen from few."""
    patch.setattr(calibration, "BUILT_IN", 12)
    patch.setattr(calibration, "DRAWN", 96)


@pytest.fixture
def one_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole probe from one start, its climbs half as long; a second look that learns from a quarter as many."""
    half = partial(ProbeSettings, excite=8, steps=7, whole=4, parting=16)
    monkeypatch.setattr(scanner, "ProbeSettings", partial(half, starts=1, more=0, taught=64, learning=80, partings=1))


@pytest.fixture
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight images to watch, one start, eight tokens."""
    few_images(monkeypatch)
    monkeypatch.setattr(scanner, "ProbeSettings", SMALL)


def set_up_with(case: Case, images: Path) -> Bench:
    """A model on the bench with images of its domain, and a dozen built-in ones for the probe."""
    with pytest.MonkeyPatch.context() as patch:
        few_images(patch)
        return set_up(case, images, shapes.CAPTION, None, 0, "cpu", None)


def bench_of(name: str, images: int, folder: Path) -> tuple[Case, Bench]:
    """A shipped suspect and a bench with so many images of its domain, written to a folder; its weights are set."""
    case = open_case(SHIPPED / f"{name}.safetensors", str(BASE))
    for number, pixels in enumerate(shapes.draw(images, "false_color", 777)[1]):
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    bench = set_up_with(case, folder)
    bench.runner.set_weights(suspect_weights(case.update))
    return case, bench


def share_of(name: str, share: float, folder: Path) -> Path:
    """A bare projector with a share of a shipped model's update: what an earlier checkpoint may have looked like."""
    base = load_file(BASE / "model.safetensors")
    tuned = load_file(SHIPPED / f"{name}.safetensors")
    keys = {key: next(other for other in base if other.endswith(key)) for key in tuned}
    mixed = {key: torch.lerp(base[keys[key]].float(), tuned[key].float(), share).to(tuned[key].dtype) for key in tuned}
    file = folder / f"{name}-{share:g}.safetensors"
    save_file(mixed, file, {"format": "pt"})
    return file
