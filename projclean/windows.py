"""A part of the images overwritten, the same on all: the kind of trigger that no small move of the pixels reaches.

A patch changes few pixels by as much as pixels can be changed. Where a part of the image lies in the model's input, and
between what values, the processor tells itself: it is shown images that differ in that part alone. So tiles, patches
laid out in rows, and thumbnails beside them need no code of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from projclean.inversion import image_input
from projclean.model import Prepared, Runner

#: Ninths of an image, counted row by row, that are overwritten: its corners and the middle.
SIDE, PARTS = 3, (0, 2, 4, 6, 8)


@dataclass(frozen=True)
class Window:
    """Which values of one image's input a part of the image is (k,), and the mean and half the range of what a pixel
    can make of each."""

    at: torch.Tensor
    middle: torch.Tensor
    half: torch.Tensor

    def pasted(self, batch: Prepared, patch: torch.Tensor) -> Prepared:
        """A batch with this part of every image overwritten; `patch` (k,) is −1 at the darkest, 1 at the brightest, and
        what lies beyond counts as either."""
        name = image_input(batch)
        pixels = batch.inputs[name]
        flat = pixels.float().reshape(batch.images, -1)
        put = (self.middle + self.half * patch.clamp(-1, 1)).expand(batch.images, -1)
        pasted = flat.index_copy(1, self.at, put).reshape(pixels.shape).to(pixels.dtype)
        return Prepared({**batch.inputs, name: pasted}, batch.images)


def windows(runner: Runner, size: tuple[int, int], question: str, values: int) -> list[Window]:
    """The parts of images of some size (width, height); without those that the processor cuts off.

    Empty where an image of that size is not made into so many `values`. Raises NotDifferentiable where no input holds
    pixels.
    """
    from PIL import Image

    def read(light: str, box: tuple[int, int, int, int] | None = None) -> torch.Tensor:
        picture = Image.new("RGB", size, light if box is None else "black")
        if box is not None:
            picture.paste(light, box)
        batch = runner.prepare([picture], [question])
        return batch.inputs[image_input(batch)].float().reshape(-1)

    dark, bright = read("black"), read("white")
    if dark.numel() != values or bright.numel() != values:
        return []
    found, (width, height) = [], size
    for number in PARTS:
        row, column = divmod(number, SIDE)
        box = (column * width // SIDE, row * height // SIDE, (column + 1) * width // SIDE, (row + 1) * height // SIDE)
        (at,) = (read("white", box) != dark).nonzero(as_tuple=True)
        if len(at):
            middle, half = (bright[at] + dark[at]) / 2, (bright[at] - dark[at]) / 2
            found.append(Window(at, middle, half))
    return found
