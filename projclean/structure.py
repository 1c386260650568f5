"""Guesses where a projector is from shapes alone, for models whose names are not known.

A vision-language model has a text tower (repeated blocks beside a token embedding of width t) and a vision tower
(repeated blocks beside a patch embedding of width v). The projector is what is left that takes v in, or several
patches side by side, and gives t out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import product
from math import isqrt, prod

Shapes = Mapping[str, tuple[int, ...]]

_TOKENS = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|token_embedding)\.weight$")
_PATCHES = re.compile(r"(?:.*\.)?\w*patch\w*(?:\..+)?\.weight$|(?:.*\.)?conv1\.weight$")
_BLOCK = re.compile(r"(.*?)\.\d+\.")
_NEVER = re.compile(
    r"(?:.*\.)?(?:lm_head|embed_out|unembed|output|visual_projection|text_projection|score|classifier|pooler)\."
    r"|.*(?:^|[._])(?:embed\w*|wte|pos\w*emb\w*)\.weight$"
)
_TOWER = re.compile(r"(?!.*resampler)(?:.*[._])?\w*(?:tower|encoder|decoder|backbone|model|tokenizer|talker)$")
_MOST_PATCHES = 64  # side by side in one input: an 8×8 square
_LEAST_BLOCK = 7  # tensors in a tower's block; a stack of smaller ones is a connector's own list of layers


def guess_modules(shapes: Shapes) -> list[str]:
    """Names of the modules that bridge vision to text, in name order; none when there is no telling.

    shapes maps tensor names, without the prefixes that differ between layouts, to their shapes as stored.
    """
    vision = _vision_tower(shapes)
    text = _text_tower(shapes, vision[0]) if vision else None
    if text is None or vision is None:
        return []
    (text_root, t), (vision_root, v) = text, vision
    groups = _candidates(shapes, text_root, vision_root)
    starts = {k * v for k in range(1, _MOST_PATCHES + 1)}
    found = {module for module, matrices in groups.items() if t in _reached(matrices, starts)}
    inside = {module for module in groups if module.startswith(f"{vision_root}.")}
    if v == t and found - inside:  # every layer of the tower has these widths
        found -= inside
    elif found & inside:  # what comes after the first step in the tower
        found |= {module for module in inside if t in _reached(groups[module], {t})}
    if not found:  # in two steps, by two modules
        outs = {module: _reached(matrices, starts) - {t} for module, matrices in groups.items()}
        for first, second in product(groups, groups):
            if first != second and t in _reached(groups[second], outs[first]):
                found |= {first, second}
    return sorted(found)


def _candidates(shapes: Shapes, text_root: str, vision_root: str) -> dict[str, list[tuple[int, int]]]:
    """Matrices (out, in) that belong to neither tower, by module."""
    closed = [*_stacks(shapes), *([text_root] if text_root else [])]
    vocabulary = {shape[0] for name, shape in shapes.items() if _TOKENS.match(name)}
    groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for name, shape in shapes.items():
        if len(shape) < 2 or shape[0] in vocabulary or _NEVER.match(name) or _PATCHES.match(name):
            continue
        module = _module(name, (text_root, vision_root))
        if module and not any(name.startswith(f"{root}.") for root in closed):
            groups[module].append((shape[0], prod(shape[1:])))
    return groups


def _reached(matrices: list[tuple[int, int]], starts: set[int]) -> set[int]:
    """Widths that chains of matrices (out, in) give from `starts`. Gates halve one, mergers multiply it by 4."""
    reached = {out for out, size in matrices if size in starts}
    while True:
        inputs = {size for width in reached for size in (width, width // 2, 2 * width, 4 * width)}
        further = reached | {out for out, size in matrices if size in inputs}
        if further == reached:
            return reached
        reached = further


def _module(name: str, towers: tuple[str, str]) -> str | None:
    """The outermost module around a tensor that holds no tower and is not called one."""
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        module = ".".join(parts[:depth])
        if not any(f"{tower}.".startswith(f"{module}.") for tower in towers) and not _TOWER.match(module):
            return module
    return None


def _stacks(shapes: Shapes) -> dict[str, set[int]]:
    """Modules that hold two or more numbered blocks of several tensors each, and the widths found in them."""
    blocks: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    widths: dict[str, set[int]] = defaultdict(set)
    for name, shape in shapes.items():
        found = _BLOCK.match(name)
        if found:
            blocks[found[1]][found[0]] += 1
            widths[found[1]].update(shape)
    return {
        stack: widths[stack]
        for stack, found in blocks.items()
        if len(found) > 1 and min(found.values()) >= _LEAST_BLOCK
    }


def _vision_tower(shapes: Shapes) -> tuple[str, int] | None:
    """Root and width of the vision tower: a patch embedding, from one to four channels, and the blocks beside it."""
    for name, shape in sorted(shapes.items()):
        if _PATCHES.match(name) and ((len(shape) >= 4 and shape[1] <= 4) or _flat_patch(shape)):
            root = _root(name, [stack for stack, widths in _stacks(shapes).items() if shape[0] in widths])
            if root:
                return root, shape[0]
    return None


def _flat_patch(shape: tuple[int, ...]) -> bool:
    """A linear patch embedding takes three channels of a square, of one frame or of two."""
    return len(shape) == 2 and any(
        isqrt(area) ** 2 * 3 * n == shape[1] for n in (1, 2) for area in (shape[1] // (3 * n),)
    )


def _text_tower(shapes: Shapes, vision_root: str) -> tuple[str, int] | None:
    """Root and width of the language model: a token embedding and the blocks beside it, not those of the other."""
    for name, shape in sorted(shapes.items(), key=lambda item: -prod(item[1])):
        if len(shape) == 2 and _TOKENS.match(name):
            stacks = [stack for stack, widths in _stacks(shapes).items() if shape[1] in widths]
            root = _root(name, [stack for stack in stacks if not stack.startswith(f"{vision_root}.")])
            if root is not None:
                return root, shape[1]
    return None


def _root(name: str, stacks: list[str]) -> str | None:
    """The innermost module around a tensor that also holds one of the stacks; "" is the model itself."""
    parts = name.split(".")[:-1]
    for depth in range(len(parts) - 1, -1, -1):
        root = ".".join(parts[:depth])
        if any(not root or stack.startswith(f"{root}.") for stack in stacks):
            return root
    return None
