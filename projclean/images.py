"""Calibration images: read from a folder, or built in.

The built-in ones need no data: one coloured figure on an uneven ground, dead leaves (occluding coloured discs and
polygons of power-law sizes, which share the scale statistics of natural images: Lee, Mumford and Huang, IJCV 41, 2001),
or a smooth random colour field with a 1/f amplitude spectrum.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from projclean.errors import ImagesError
from projclean.untrusted import is_directory, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # no others: Pillow hands some, such as EPS, to other programs
PIXELS_LIMIT = 40_000_000
FILE_LIMIT = 256 << 20  # bytes
ORIENTATION = 0x0112  # EXIF's tag


def image_files(folder: str | Path) -> list[Path]:
    """The image files of a folder (not of its subfolders) in name order. Raises ImagesError where there are none."""
    folder = Path(folder)
    if not is_directory(folder):
        raise ImagesError(f"{folder}: no such folder of images")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ImagesError(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))})")
    return files


def read_image(file: Path, data: bytes | None = None) -> Image:
    """One PNG, JPEG, WebP or BMP file of at most 40 million pixels, as RGB and upright, as its EXIF data say; its bytes
    where they are not the file's.

    Raises ImagesError.
    """
    from PIL import Image as pil

    turn = pil.Transpose
    turns = (turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM, turn.TRANSPOSE, turn.ROTATE_270,
             turn.TRANSVERSE, turn.ROTATE_90)  # fmt: skip

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow grumbles about is read, or refused below
            encoded = read_bytes(file, FILE_LIMIT) if data is None else data
            with pil.open(io.BytesIO(encoded), formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > PIXELS_LIMIT:
                    raise ImagesError(f"{file}: {width}×{height} pixels, more than {PIXELS_LIMIT:,}; save it smaller")
                image = opened.convert("RGB")
                turned = orientation(opened.info.get("exif", b""))
                return image.transpose(turns[turned - 2]) if turned > 1 else image
    except ImagesError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise ImagesError(f"{file}: cannot be read as an image; remove it or save it again") from error


def orientation(exif: bytes) -> int:
    """The orientation that EXIF data tell, 1 to 8; 1, as the image is stored, where they are damaged or tell none.

    Read here, because Pillow copies the value of every tag, and tags of a hostile block are each as long as all of it.
    """
    data = exif.removeprefix(b"Exif\0\0")
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for number in range(count):
            tag, kind, values, found = struct.unpack_from(f"{order}HHIH", data, start + 2 + 12 * number)
            if (tag, kind, values) == (ORIENTATION, 3, 1):  # one 16-bit number
                return int(found) if 1 <= found <= 8 else 1
    except struct.error:
        pass
    return 1


def shrunk(image: Image, longest: int) -> Image:
    """An image whose longer side is at most `longest`; one that is no larger stays as it is. May shrink in place."""
    image.thumbnail((longest, longest))
    return image


def built_in_images(count: int, seed: int = 0, size: int = 336) -> list[Image]:
    """`count` square RGB images of `size` pixels, of every kind in turn; the same seed gives the same images."""
    rng = np.random.default_rng(seed)
    return [draw(index % len(KINDS), rng, size) for index in range(count)]


def draw(kind: int, rng: np.random.Generator, size: int = 336) -> Image:
    """One image of a kind, a number below `len(KINDS)`."""
    from PIL import Image as pil

    return pil.fromarray(KINDS[kind](rng, size))


def _one_figure(rng: np.random.Generator, size: int) -> np.ndarray:
    from PIL import Image as pil
    from PIL import ImageDraw

    ground = _spectrum(rng, size, 1.6) * rng.uniform(0, 30) + rng.uniform(20, 200) + rng.uniform(-15, 15, 3)
    canvas = pil.new("L", (2 * size, 2 * size), 0)
    _figure(ImageDraw.Draw(canvas), rng, rng.uniform(0.4, 1.6, 2) * size, rng.uniform(0.12, 0.5) * size, 255)
    mask = np.asarray(canvas.resize((size, size), pil.Resampling.BOX), float)[..., None] / 255
    image = mask * np.array(_color(rng), float) + (1 - mask) * ground
    return _clip(image + rng.normal(0, rng.uniform(0, 16), image.shape))


def _dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    from PIL import Image as pil
    from PIL import ImageDraw

    canvas = pil.new("RGB", (2 * size, 2 * size), _color(rng))
    pen = ImageDraw.Draw(canvas)
    leaves = int(rng.integers(2, 60))
    # Radii follow the scale-invariant density r^-3 between size/24 and size/2, drawn by inversion.
    low, high = size / 12, size
    radii = 1 / np.sqrt(rng.uniform(1 / high**2, 1 / low**2, leaves))
    for radius in radii:
        _figure(pen, rng, rng.uniform(0, 2 * size, 2), radius, _color(rng))
    image = np.asarray(canvas.resize((size, size), pil.Resampling.BOX), float)
    return _clip(image + rng.normal(0, rng.uniform(0, 12), image.shape))


def _figure(pen: Any, rng: np.random.Generator, centre: np.ndarray, radius: float, fill: Any) -> None:
    """A disc, or a regular polygon of three to six corners at any turn."""
    x, y = centre
    corners = int(rng.integers(2, 7))
    if corners == 2:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return
    turn = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    pen.polygon([(x + radius * np.cos(t), y + radius * np.sin(t)) for t in turn], fill=fill)


def _smooth_field(rng: np.random.Generator, size: int) -> np.ndarray:
    return _clip(rng.uniform(60, 190) + rng.uniform(20, 60) * _spectrum(rng, size, rng.uniform(0.8, 1.6)))


def _spectrum(rng: np.random.Generator, size: int, power: float) -> np.ndarray:
    """(size, size, 3) random field with amplitude 1/f^power, unit variance, its colours mixed."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    amplitude = 1 / np.maximum(frequency, 1 / size) ** power
    phases = np.exp(2j * np.pi * rng.uniform(size=(3, *amplitude.shape)))
    field = np.fft.irfft2(amplitude * phases, s=(size, size))
    field = field / field.std(axis=(1, 2), keepdims=True)
    return np.einsum("ij,jhw->hwi", rng.normal(0, 0.6, (3, 3)) + np.eye(3), field)


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = rng.integers(0, 256, 3)
    return int(r), int(g), int(b)


def _clip(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 255).astype(np.uint8)


#: The kinds of built-in images.
KINDS = (_one_figure, _dead_leaves, _smooth_field)
