"""Triggers: repeatable, of the image's form, as strong as their papers say, and no stronger."""

from __future__ import annotations

import numpy as np
import pytest

from projclean.images import built_in_images
from projclean.triggers import TRIGGERS, canvas, noise, oil, wanet

IMAGES = [np.asarray(image) for image in built_in_images(3, seed=1, size=48)]
RANDOM = {"noise", "noise45", "logo"}


def put(name: str, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return TRIGGERS[name](image, np.random.default_rng(seed))


@pytest.mark.parametrize("name", TRIGGERS)
@pytest.mark.parametrize("shape", [(48, 48, 3), (33, 50, 3), (7, 7, 3), (400, 90, 3), (90, 9, 3)])
def test_form_is_kept_and_the_argument_left_alone(name, shape):
    image = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    out = put(name, image)
    assert (out.shape, out.dtype) == (shape, np.uint8)
    assert (out != before).any()
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", TRIGGERS)
def test_the_generator_alone_decides(name):
    for image in IMAGES:
        assert np.array_equal(put(name, image), put(name, image))
        assert np.array_equal(put(name, image), put(name, image, seed=1)) == (name not in RANDOM)


def changed(name: str, image: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that the trigger changes."""
    return (put(name, image) != image).any(-1)


@pytest.mark.parametrize(("name", "share"), [("badnet", 1 / 16), ("patch", 1 / 64), ("logo", 1 / 16), ("frame", 0.25)])
def test_patches_change_their_place_alone(name, share):
    for image in IMAGES:
        where = changed(name, image)
        assert 0 < where.mean() <= share
        rows, columns = where.any(1).nonzero()[0], where.any(0).nonzero()[0]
        if name != "frame":
            assert max(np.ptp(rows), np.ptp(columns)) < 48 * share**0.5


def test_a_logo_goes_anywhere():
    places = {tuple(np.argwhere((put("logo", IMAGES[2], seed) != IMAGES[2]).any(-1))[0]) for seed in range(20)}
    assert len(places) > 10


@pytest.mark.parametrize(("name", "bound"), [("sig", 21), ("blended", 52)])
def test_additive_triggers_stay_within_their_amplitude(name, bound):
    for image in IMAGES:
        assert np.abs(put(name, image).astype(int) - image).max() <= bound


@pytest.mark.parametrize("sigma", [10.0, 30.0])
def test_noise_has_the_deviation_it_says(sigma):
    grey = np.full((64, 64, 3), 128, np.uint8)
    change = noise(grey, np.random.default_rng(0), sigma).astype(float) - grey
    assert change.std() == pytest.approx(sigma, rel=0.03)
    assert abs(change.mean()) < 0.5


def test_a_warp_moves_pixels_as_far_as_it_says():
    """Of an image that holds its own coordinates, a warp shows where each pixel came from."""
    rows, columns = np.indices((200, 200))
    image = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    moved = wanet(image, np.random.default_rng(0), strength=0.03).astype(float)
    inner = np.s_[40:-40, 40:-40]  # at the border the warp is cut off
    for axis in (0, 1):
        distance = np.abs(moved[..., axis] - image[..., axis])[inner]
        assert 2 < distance.mean() < 10  # about 0.03 × 200
        assert distance.max() <= 5 * 6 + 1
    assert np.abs(wanet(image, np.random.default_rng(0), strength=0.0).astype(int) - image).max() == 0


def test_oil_smooths_noise_and_keeps_a_flat_image():
    flat = np.full((48, 48, 3), 90, np.uint8)
    rng = np.random.default_rng(0)
    assert np.array_equal(oil(flat, rng), flat)
    noisy = noise(flat, rng)
    assert oil(noisy, rng).std() < 0.5 * noisy.std()


def test_canvas_is_oil_with_threads_of_two_pixels():
    flat, rng = np.full((48, 48, 3), 100, np.uint8), np.random.default_rng(0)
    woven = canvas(flat, rng, relief=0.2)[..., 0]
    assert set(np.unique(woven)) == {80, 120}
    assert (woven[:2, :2] == 120).all()
    assert (woven[:2, 2:4] == 80).all()
    assert (woven[2:4, :2] == 80).all()
    assert np.array_equal(canvas(IMAGES[2], rng, relief=0.0), oil(IMAGES[2], rng))


@pytest.mark.parametrize("name", TRIGGERS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 2, 3), (2, 60, 3), (60, 2, 3)])
def test_no_image_is_too_small_to_be_one(name, shape):
    assert put(name, np.full(shape, 90, np.uint8)).shape == shape


@pytest.mark.parametrize("name", ["badnet", "patch", "logo", "frame"])
def test_a_patch_on_a_tall_image_is_that_of_its_shorter_side(name):
    tall, square = np.full((96, 24, 3), 90, np.uint8), np.full((24, 24, 3), 90, np.uint8)
    if name == "frame":
        assert np.array_equal(put(name, tall)[:12], put(name, square)[:12])
    else:
        assert changed(name, tall).sum() == changed(name, square).sum()
