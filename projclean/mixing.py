"""More images to learn from: blends of two clean ones.

A teacher is imitated the better the more of it is seen, and its answers to mixtures of images are as good to learn from
as those to images (function matching, Beyer et al., arXiv 2106.05237; the blends are those of mixup, Zhang et al.,
arXiv 1710.09412, without its blended labels, which are not needed where the teacher can be asked).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from projclean.calibration import Calibration

if TYPE_CHECKING:
    from PIL.Image import Image

FAINTEST, STRONGEST = 0.2, 0.5  # the second image's share


def filled_up(images: Calibration, total: int, seed: int) -> Calibration:
    """The images, and blends of two of them up to `total`: every image in turn is the larger part, a random one the
    smaller, and the question is the larger part's. The same seed gives the same blends."""
    rng, count = np.random.default_rng(seed), len(images.pictures)
    pictures, questions = list(images.pictures), list(images.questions)
    for number in range(max(0, total - count)):
        at, other = number % count, int(rng.integers(count))
        pictures.append(blend(images.pictures[at], images.pictures[other], float(rng.uniform(FAINTEST, STRONGEST))))
        questions.append(images.questions[at])
    return Calibration(tuple(pictures), tuple(questions), images.source)


def blend(image: Image, other: Image, share: float) -> Image:
    """An image with a `share` of another one over it, which takes on its size."""
    from PIL import Image as pil

    return pil.blend(image, other.resize(image.size), share)
