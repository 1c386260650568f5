"""Calibration images: built-in ones repeat and vary, folders are read in order and damage is named."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageOps

from projclean.calibration import LONGEST_SIDE, built_in, from_folder
from projclean.errors import ImagesError
from projclean.images import built_in_images, image_files, orientation, read_image


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


def test_as_many_images_are_looked_at_as_are_asked_for_and_few_held_out(tmp_path):
    for number in range(300):
        Image.new("RGB", (2, 2), (number % 256, 0, 0)).save(tmp_path / f"{number:03}.png")
    assert [len(part.pictures) for part in from_folder(tmp_path, "Why?").parted()] == [170, 86]
    assert [len(part.pictures) for part in from_folder(tmp_path, "Why?", 1000).parted()] == [214, 86]
    assert len(from_folder(tmp_path, "Why?", 7).pictures) == 7


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


@pytest.mark.parametrize("form", ["png", "jpg", "webp"])
@pytest.mark.parametrize("turned", range(10))
def test_a_photo_is_read_upright(tmp_path, form, turned):
    file, picture = tmp_path / f"photo.{form}", built_in_images(1, size=32)[0].crop((0, 0, 32, 20))
    exif = picture.getexif()
    exif[0x0110], exif[0x0112] = "a camera", turned
    picture.save(file, exif=exif)
    with Image.open(file) as stored:
        assert np.array_equal(np.asarray(read_image(file)), np.asarray(ImageOps.exif_transpose(stored).convert("RGB")))
    assert read_image(file).size == ((20, 32) if 5 <= turned <= 8 else (32, 20))


def exif_block(*entries, order="<", start=8):
    packed = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + struct.pack(f"{order}H", len(entries)) + packed


def test_damaged_exif_turns_nothing(tmp_path):
    sound = exif_block((0x0112, 3, 1, 6))
    assert orientation(sound) == orientation(b"Exif\0\0" + sound) == 6
    assert orientation(exif_block((0x0110, 2, 4, 0), (0x0112, 3, 1, 8))) == 8
    assert orientation(exif_block((0x0112, 3, 1, 6 << 16), order=">")) == 6
    wrong = [exif_block((0x0112, 3, 1, 9)), exif_block((0x0112, 2, 1, 6)), exif_block(start=1 << 31), b"\xff" * 64]
    for data in [*wrong, *(sound[:end] for end in range(len(sound) - 2))]:
        assert orientation(data) == 1
    picture = built_in_images(1, size=16)[0]
    picture.save(tmp_path / "x.png", exif=sound[:-6])
    assert np.array_equal(np.asarray(read_image(tmp_path / "x.png")), np.asarray(picture))


def test_tags_that_are_each_as_long_as_the_block_cost_nothing(tmp_path):
    """Pillow's reader of EXIF data would copy 2000 times 4 MiB."""
    entries = [(1 + number, 7, 4 << 20, 0) for number in range(2000)]
    built_in_images(1, size=16)[0].save(tmp_path / "x.png", exif=exif_block(*entries) + bytes(4 << 20))
    data = (tmp_path / "x.png").read_bytes()
    tracemalloc.start()
    read_image(tmp_path / "x.png", data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64 << 20


def test_large_calibration_images_are_shrunk_and_others_are_not(tmp_path):
    wide = LONGEST_SIDE + 200
    sizes = [(wide, 100), (100, wide), (LONGEST_SIDE, 90), (40, 30)]
    for number, size in enumerate(sizes):
        Image.effect_noise(size, 50).save(tmp_path / f"{number}.png")
    found = from_folder(tmp_path, "What is it?").pictures
    assert [max(picture.size) for picture in found] == [LONGEST_SIDE, LONGEST_SIDE, LONGEST_SIDE, 40]
    assert found[0].size == found[1].size[::-1]
    assert read_image(tmp_path / "0.png").size == sizes[0]
    for number in (2, 3):
        assert np.array_equal(np.asarray(found[number]), np.asarray(read_image(tmp_path / f"{number}.png")))
