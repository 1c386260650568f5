"""Calibration images: built-in ones repeat and vary, folders are read in order and damage is named."""

from __future__ import annotations

import numpy as np
import pytest

from projclean.errors import ImagesError
from projclean.images import built_in_images, load_images


def test_built_in_images_repeat_and_differ():
    first, again, other = built_in_images(4, 3), built_in_images(4, 3), built_in_images(4, 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert {image.size for image in first} == {(336, 336)}
    assert all(np.asarray(image).std() > 5 for image in first)


def test_folder_is_read_in_name_order(tmp_path):
    pictures = built_in_images(3, size=16)
    for name, picture in zip(("b.png", "a.jpg", "c.webp"), pictures, strict=True):
        picture.save(tmp_path / name, quality=100)
    (tmp_path / "metadata.jsonl").write_text("{}")
    read = load_images(tmp_path)
    assert len(read) == 3
    assert np.array_equal(np.asarray(read[1]), np.asarray(pictures[0]))
    assert len(load_images(tmp_path, limit=2)) == 2


@pytest.mark.parametrize("how", ["missing", "empty", "damaged"])
def test_unusable_folders_are_named(tmp_path, how):
    folder = tmp_path / "images"
    if how != "missing":
        folder.mkdir()
    if how == "damaged":
        (folder / "x.png").write_bytes(b"not a picture")
    with pytest.raises(ImagesError, match="images"):
        load_images(folder)
