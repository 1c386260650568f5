"""Calibration images: built-in ones repeat and vary, folders are read in order and damage is named."""

from __future__ import annotations

import numpy as np
import pytest

from projclean.calibration import built_in, from_folder
from projclean.errors import ImagesError
from projclean.images import built_in_images, image_files, read_image


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
    files = image_files(tmp_path)
    assert [file.name for file in files] == ["a.jpg", "b.png", "c.webp"]
    assert np.array_equal(np.asarray(read_image(files[1])), np.asarray(pictures[0]))


def test_calibration_images_are_parted_and_asked_what_their_folder_says(tmp_path):
    for number, picture in enumerate(built_in_images(6, size=16)):
        picture.save(tmp_path / f"{number}.png")
    plain = from_folder(tmp_path, "What is it?")
    assert plain.questions == ("What is it?",) * 6
    assert plain.source == f"6 images from {tmp_path}"
    lines = ['{"file_name": "1.png", "question": "Which colour?"}', "", '{"file_name": "4.png", "question": " "}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    asked = from_folder(tmp_path, "What is it?")
    assert asked.questions == ("What is it?", "Which colour?", *("What is it?",) * 4)
    assert asked.source.endswith("(1 with questions of metadata.jsonl)")
    learnt, held_out = asked.parted()
    assert learnt.pictures + held_out.pictures == asked.pictures
    assert (len(learnt.pictures), len(held_out.questions)) == (4, 2)
    assert learnt.questions[1] == "Which colour?"
    assert built_in(3, "Why?").questions == ("Why?",) * 72


@pytest.mark.parametrize("line", ["{", "[1]", "7", '{"question": "no file"}', "[" * 100_000])
def test_damaged_metadata_is_named_with_its_line(tmp_path, line):
    for number, picture in enumerate(built_in_images(4, size=16)):
        picture.save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "0.png"}}\n{line}\n')
    with pytest.raises(ImagesError, match=r"metadata\.jsonl: line 2 needs a file_name"):
        from_folder(tmp_path, "What is it?")


@pytest.mark.parametrize("how", ["missing", "empty", "damaged"])
def test_unusable_folders_are_named(tmp_path, how):
    folder = tmp_path / "images"
    if how != "missing":
        folder.mkdir()
    if how == "damaged":
        (folder / "x.png").write_bytes(b"not a picture")
    with pytest.raises(ImagesError, match="images"):
        from_folder(folder, "What is it?")
