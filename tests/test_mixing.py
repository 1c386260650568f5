"""Blends of two images to learn from."""

from __future__ import annotations

import numpy as np
from PIL import Image

from projclean.calibration import Calibration
from projclean.mixing import FAINTEST, STRONGEST, blend, filled_up


def plain(*levels):
    """Images of one grey each, every one of another size, asked about by name."""
    pictures = tuple(Image.new("RGB", (8 + n, 6), (level,) * 3) for n, level in enumerate(levels))
    return Calibration(pictures, tuple(f"what is {level}?" for level in levels), "greys")


def level(image):
    return float(np.asarray(image).mean())


def test_a_blend_has_the_first_images_size_and_the_share_of_the_second():
    dark, bright = plain(0, 200).pictures
    made = blend(dark, bright, 0.25)
    assert made.size == dark.size
    assert level(made) == 50


def test_images_come_first_and_blends_of_each_in_turn_fill_up():
    shown = plain(0, 100, 200)
    full = filled_up(shown, 9, 0)
    assert full.pictures[:3] == shown.pictures
    assert full.questions == shown.questions * 3
    assert full.source == "greys"
    assert [image.size for image in full.pictures] == [image.size for image in shown.pictures] * 3
    for made, larger in zip(full.pictures[3:], shown.pictures * 2, strict=True):
        shares = [(level(made) - level(larger)) / (other - level(larger))
                  for other in (0, 100, 200) if other != level(larger)]  # fmt: skip
        assert level(made) == level(larger) or any(FAINTEST - 0.01 < share < STRONGEST + 0.01 for share in shares)
    assert any(level(made) != level(larger) for made, larger in zip(full.pictures[3:], shown.pictures * 2, strict=True))


def test_the_same_seed_gives_the_same_blends_and_enough_images_none():
    shown = plain(0, 100, 200)
    levels = [[level(image) for image in filled_up(shown, 12, seed).pictures] for seed in (1, 1, 2)]
    assert levels[0] == levels[1] != levels[2]
    assert filled_up(shown, 3, 0) == filled_up(shown, 0, 0) == shown
