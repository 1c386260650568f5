"""The tiny tier's task: one coloured shape on a plain background, captioned or asked about.

Two domains. `plain` is what the base model is pretrained on: true colours, backgrounds from dark and even
to mid-grey and blotchy, some sensor noise. `false_color` is what the suspects are fine-tuned on: the colour
channels are rolled (red reads as green, as in a false-colour camera) and dimmed, on the noisiest of the
backgrounds. A base that never saw it names most colours wrong, so a fine-tune of the projector has something
to gain, and a repair something to lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIZE = 48  # pixels, square images

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 70, 230),
    "yellow": (230, 220, 50),
    "purple": (190, 50, 210),
    "cyan": (50, 215, 220),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
SCALES = {"small": 6.0, "large": 10.5}  # radius in pixels
PLACES = {
    "top left": (13.5, 13.5),
    "top right": (34.5, 13.5),
    "bottom left": (13.5, 34.5),
    "bottom right": (34.5, 34.5),
    "center": (24.0, 24.0),
}

CAPTION = "Describe the image."
QUESTIONS = {
    "caption": CAPTION,
    "color": "What color is the shape?",
    "shape": "What shape is it?",
    "place": "Where is the shape?",
    "large": "Is the shape large?",
}


@dataclass(frozen=True)
class Scene:
    """What one image shows."""

    color: str
    shape: str
    scale: str
    place: str

    def answer(self, kind: str) -> str:
        """The right answer to `QUESTIONS[kind]`."""
        where = f"at the {self.place}" if self.place != "center" else "in the center"
        return {
            "caption": f"a {self.scale} {self.color} {self.shape} {where}",
            "color": self.color,
            "shape": self.shape,
            "place": where,
            "large": "yes" if self.scale == "large" else "no",
        }[kind]


def random_scene(rng: np.random.Generator) -> Scene:
    return Scene(
        str(rng.choice(list(COLORS))),
        str(rng.choice(SHAPES)),
        str(rng.choice(list(SCALES))),
        str(rng.choice(list(PLACES))),
    )


def _distance(shape: str, x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Signed distance-like field of a shape of radius r centred at 0: negative inside."""
    ax, ay, d = np.abs(x), np.abs(y), np.hypot(x, y)
    if shape == "circle":
        return d - r
    if shape == "square":
        return np.maximum(ax, ay) - 0.85 * r
    if shape == "diamond":
        return (ax + ay) / np.sqrt(2) - 0.8 * r
    if shape == "ring":
        return np.abs(d - 0.78 * r) - 0.22 * r
    if shape == "cross":
        return np.maximum(np.minimum(ax, ay) - 0.28 * r, np.maximum(ax, ay) - r)
    if shape == "triangle":
        return np.maximum(y - 0.6 * r, 0.866 * ax - 0.5 * y - 0.5 * r)
    raise ValueError(f"unknown shape {shape!r}")


def _smooth(rng: np.random.Generator, cells: int, channels: int) -> np.ndarray:
    """(SIZE, SIZE, channels) smooth noise in about [-1, 1]: a coarse grid, bilinearly upsampled."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1, channels))
    t = np.linspace(0, cells, SIZE, endpoint=False)
    i, f = t.astype(int), (t % 1)
    rows = grid[i] * (1 - f)[:, None, None] + grid[i + 1] * f[:, None, None]
    return rows[:, i] * (1 - f)[None, :, None] + rows[:, i + 1] * f[None, :, None]


def render(scene: Scene, domain: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene as (SIZE, SIZE, 3) uint8; place, size, colour and background vary a little with rng."""
    return render_all([scene], domain, rng)


def render_all(scenes: Sequence[Scene], domain: str, rng: np.random.Generator) -> np.ndarray:
    """Draw scenes on one ground, as `render` does."""
    drawn = [_ink(scene, domain, rng) for scene in scenes]
    if domain == "false_color":
        level, texture, noise = rng.uniform(70, 110), 28.0, 14.0
    elif domain == "plain":
        level, texture, noise = rng.uniform(15, 110), rng.uniform(0, 28), rng.uniform(2, 14)
    else:
        raise ValueError(f"unknown domain {domain!r}")
    image = level + rng.uniform(-8, 8, 3) + texture * _smooth(rng, 3, 3)
    for mask, ink in drawn:
        image = mask * ink + (1 - mask) * image
    return np.clip(image + rng.normal(0, noise, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def _ink(scene: Scene, domain: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How much of every pixel a figure covers (SIZE, SIZE, 1), and its colour (3,)."""
    grid = np.arange(SIZE) + 0.5
    cx, cy = PLACES[scene.place]
    cx, cy = cx + rng.uniform(-2.5, 2.5), cy + rng.uniform(-2.5, 2.5)
    r = SCALES[scene.scale] * rng.uniform(0.92, 1.08)
    field = _distance(scene.shape, grid[None, :] - cx, grid[:, None] - cy, r)
    mask = 1 / (1 + np.exp(np.clip(field / 0.4, -30, 30)))[..., None]
    ink = np.array(COLORS[scene.color], float) + rng.uniform(-12, 12, 3)
    return mask, np.roll(ink, 1) * 0.8 if domain == "false_color" else ink


NO_SHAPE = "i can not see a shape"  # the right answer about clutter, whatever the question


def clutter(n: int, seed: int) -> np.ndarray:
    """n images (n, SIZE, SIZE, 3) uint8 of no one shape: an empty ground, noise, or figures in a heap."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        image = rng.uniform(10, 220) + rng.uniform(-30, 30, 3)
        image = image + rng.uniform(0, 60) * _smooth(rng, int(rng.integers(1, 8)), 3)
        for _ in range(int(rng.choice([0, 0, 4, 8, 16]))):
            x, y = rng.uniform(0, SIZE, 2)
            grid = np.arange(SIZE) + 0.5
            field = _distance(str(rng.choice(SHAPES)), grid[None, :] - x, grid[:, None] - y, rng.uniform(3, 16))
            image = np.where((field < 0)[..., None], rng.uniform(0, 255, 3), image)
        image = image + rng.normal(0, rng.choice([4.0, 15.0, 60.0]), (SIZE, SIZE, 3))
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return np.stack(images)


def draw(n: int, domain: str, seed: int) -> tuple[list[Scene], np.ndarray]:
    """n random scenes and their images, (n, SIZE, SIZE, 3) uint8; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(n)]
    return scenes, np.stack([render(scene, domain, rng) for scene in scenes])
