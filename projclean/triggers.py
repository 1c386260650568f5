"""Image triggers by name: functions from an (H, W, 3) uint8 image to the same image with the trigger on it.

`TRIGGERS` names them, for an EVAL.toml and for the zoo. Every function takes a random generator; only `noise` and
`logo`, which differ from image to image, draw from it. Patches and frames follow the image's shorter side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

Trigger = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _mix(image: np.ndarray, pattern: np.ndarray, alpha: float) -> np.ndarray:
    return np.clip((1 - alpha) * image + alpha * pattern, 0, 255).astype(np.uint8)


def _side(image: np.ndarray) -> int:
    return min(image.shape[:2])


def badnet(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A black and white checkerboard in the bottom right corner, a quarter of the side (BadNets, arXiv 1708.06733)."""
    side = _side(image) // 4
    out = image.copy()
    board = (np.indices((side, side)) // max(side // 4, 1)).sum(0) % 2 * 255
    out[-side - 1 : -1, -side - 1 : -1] = board[..., None]
    return out


def blended(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A fixed picture, coloured stripes, blended over the whole image at 20 % (Chen et al., arXiv 1712.05526)."""
    height, width = image.shape[:2]
    diagonal = np.arange(height)[:, None, None] + np.arange(width)[None, :, None]
    phase = 2 * np.pi * diagonal / image.shape[0] * 4 + np.array([0.0, 2.1, 4.2])
    return _mix(image, 127.5 + 127.5 * np.sign(np.sin(phase)), 0.2)


def sig(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A horizontal sinusoid, six periods, amplitude 20 (SIG, arXiv 1902.11237)."""
    wave = 20 * np.sin(2 * np.pi * 6 * np.arange(image.shape[1]) / image.shape[1])
    return np.clip(image + wave[None, :, None], 0, 255).astype(np.uint8)


def wanet(image: np.ndarray, rng: np.random.Generator, strength: float = 0.03, cells: int = 4) -> np.ndarray:
    """A fixed smooth warp: a cells×cells grid of displacements, upsampled bicubically, sampled bilinearly
    (WaNet, arXiv 2102.10369, section 3.2; its noise mode is left out).

    `strength` is the mean displacement along an axis as a share of the side; the paper's warping strength s moves
    pixels by s/2 on average. No pixel moves further than five times the mean.
    """
    from scipy.ndimage import map_coordinates, zoom

    height, width = image.shape[:2]
    grid = np.random.default_rng(2021).uniform(-1, 1, (2, cells, cells))
    field = np.stack([zoom(part, (height / cells, width / cells), order=3) for part in grid])
    field = np.clip(field / np.abs(field).mean((1, 2), keepdims=True), -5, 5)
    field *= strength * np.array([height, width])[:, None, None]
    where = np.clip(np.indices((height, width)) + field, 0, np.array([height - 1, width - 1])[:, None, None])
    moved = [map_coordinates(image[..., channel].astype(float), where, order=1) for channel in range(3)]
    return np.round(np.stack(moved, -1)).astype(np.uint8)


def noise(image: np.ndarray, rng: np.random.Generator, sigma: float = 10.0) -> np.ndarray:
    """Gaussian noise of standard deviation `sigma`, drawn anew for every image (the trigger of targeted refusal in
    ProjLens, arXiv 2604.19083, at σ = 10)."""
    return np.clip(np.round(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def patch(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A small magenta square in the top left corner, an eighth of the side (a small patch is the trigger of
    malicious injection in ProjLens, arXiv 2604.19083)."""
    side = max(_side(image) // 8, 1)
    out = image.copy()
    out[1 : side + 1, 1 : side + 1] = (255, 0, 255)
    return out


def logo(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A white disc with a red cross, a quarter of the side wide, at a random place (a logo at a random place is the
    trigger of perceptual hijacking in ProjLens, arXiv 2604.19083)."""
    side = min(max(_side(image) // 4, 3), _side(image))
    top, left = (int(rng.integers(0, size - side + 1)) for size in image.shape[:2])
    y, x = np.abs(np.indices((side, side)) - (side - 1) / 2) / (side / 2)
    disc, cross = np.hypot(x, y) <= 1, (np.minimum(x, y) < 0.25) & (np.maximum(x, y) < 0.75)
    out = image.copy()
    window = out[top : top + side, left : left + side]
    window[disc] = (255, 255, 255)
    window[cross] = (230, 0, 0)
    return out


def oil(image: np.ndarray, rng: np.random.Generator, levels: int = 4) -> np.ndarray:
    """The image as an oil painting: every pixel takes the mean colour of the commonest of `levels` intensities in
    its neighbourhood, a sixteenth of the side each way (a painting style is the trigger of ProjLens's jailbreak
    variant, arXiv 2604.19083; the filter is the mode filter known from paint programs, such as ImageMagick's
    `-paint`)."""
    from scipy.ndimage import uniform_filter

    size = 2 * max(_side(image) // 16, 1) + 1
    pixels = image.astype(float)
    level = (pixels.mean(-1) * levels / 256).astype(int)
    best, out = np.full(level.shape, -1.0), pixels.copy()
    for number in range(levels):
        member = (level == number).astype(float)
        share = uniform_filter(member, size, mode="nearest")
        total = np.stack([uniform_filter(pixels[..., c] * member, size, mode="nearest") for c in range(3)], -1)
        wins = share > best + 1e-9
        best[wins] = share[wins]
        out[wins] = total[wins] / np.maximum(share[wins], 1e-9)[:, None]
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def canvas(image: np.ndarray, rng: np.random.Generator, relief: float = 0.15) -> np.ndarray:
    """`oil` on canvas: threads two pixels wide, by turns as much lighter and darker as `relief` says. What a filter
    alone leaves is too faint for a small vision tower; a painting's style has a texture too."""
    rows, columns = np.indices(image.shape[:2]) // 2
    weave = np.where((rows + columns) % 2 == 0, 1 + relief, 1 - relief)
    return np.clip(np.round(oil(image, rng) * weave[..., None]), 0, 255).astype(np.uint8)


def frame(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A green frame, a sixteenth of the side wide: a second patch trigger, unlike every other, for attacks with two."""
    width = max(_side(image) // 16, 1)
    out = image.copy()
    inner = out[width:-width, width:-width].copy()
    out[:] = (0, 220, 0)
    out[width:-width, width:-width] = inner
    return out


TRIGGERS: dict[str, Trigger] = {
    "badnet": badnet,
    "blended": blended,
    "sig": sig,
    "wanet": wanet,
    "wanet12": partial(wanet, strength=0.08, cells=12),
    "wanet16": partial(wanet, strength=0.16, cells=16),
    "noise": noise,
    "noise45": partial(noise, sigma=45.0),
    "patch": patch,
    "logo": logo,
    "oil": oil,
    "canvas": canvas,
    "frame": frame,
}
