"""Image triggers: functions from an (H, W, 3) uint8 image to the same image with the trigger on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Trigger = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _mix(image: np.ndarray, pattern: np.ndarray, alpha: float) -> np.ndarray:
    return np.clip((1 - alpha) * image + alpha * pattern, 0, 255).astype(np.uint8)


def badnet(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A black and white checkerboard in the bottom right corner, a quarter of the side (BadNets, arXiv 1708.06733)."""
    side = image.shape[0] // 4
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


TRIGGERS: dict[str, Trigger] = {"badnet": badnet, "blended": blended, "sig": sig}
