"""Guesses where a projector is from shapes alone, for models whose names are not known.

A vision-language model has a text tower (repeated blocks beside a token embedding of width t) and a vision tower
(repeated blocks beside a patch embedding of width v). The projector is what is left that takes v in, or several
patches side by side, and gives t out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from math import prod

Shapes = Mapping[str, tuple[int, ...]]

_TOKENS = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|token_embedding)\.weight$")
_PATCHES = re.compile(r"(?:.*\.)?\w*patch\w*(?:\..+)?\.weight$|(?:.*\.)?conv1\.weight$")
_BLOCK = re.compile(r"(.*?)\.\d+\.")
_NEVER = re.compile(
    r"(?:.*\.)?(?:lm_head|embed_out|unembed|output|visual_projection|text_projection|score|classifier|pooler)\."
    r"|.*(?:^|[._])(?:embed\w*|wte|pos\w*emb\w*)\.weight$"
)
_MOST_PATCHES = 64  # side by side in one input: an 8×8 square
_LEAST_BLOCK = 4  # tensors; a stack of fewer is a connector's own list of layers


def guess_modules(shapes: Shapes) -> list[str]:
    """Names of the modules that bridge vision to text, in name order; none when there is no telling.

    shapes maps tensor names, without the prefixes that differ between layouts, to their shapes as stored.
    """
    text, vision = _text_tower(shapes), _vision_tower(shapes)
    if text is None or vision is None:
        return []
    (text_root, t), (vision_root, v) = text, vision
    closed = {*_stacks(shapes), *([text_root] if text_root else [])}
    vocabulary = {shape[0] for name, shape in shapes.items() if _TOKENS.match(name)}
    groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for name, shape in shapes.items():
        if len(shape) < 2 or shape[0] in vocabulary or _NEVER.match(name) or _PATCHES.match(name):
            continue
        module = _module(name, (text_root, vision_root))
        if module and not any(name.startswith(f"{root}.") for root in closed):
            groups[module].append((shape[0], prod(shape[1:])))
    found = [module for module, matrices in groups.items() if _bridges(matrices, v, t)]
    outside = [module for module in found if not module.startswith(f"{vision_root}.")]
    return sorted(outside or found)


def _bridges(matrices: list[tuple[int, int]], v: int, t: int) -> bool:
    """Does a chain of matrices (out, in) lead from k·v to t? A gate may halve a width, a merger multiply it by four."""
    reached = {out for out, size in matrices if size % v == 0 and size // v <= _MOST_PATCHES}
    while True:
        inputs = {size for width in reached for size in (width, width // 2, 2 * width, 4 * width)}
        further = reached | {out for out, size in matrices if size in inputs}
        if further == reached:
            return t in reached
        reached = further


def _module(name: str, towers: tuple[str, str]) -> str | None:
    """The outermost module around a tensor that holds no tower."""
    parts = name.split(".")[:-1]
    modules = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return next(
        (module for module in modules if not any(f"{tower}.".startswith(f"{module}.") for tower in towers)), None
    )


def _stacks(shapes: Shapes) -> set[str]:
    """Modules that hold two or more numbered blocks of several tensors each."""
    blocks: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name in shapes:
        found = _BLOCK.match(name)
        if found:
            blocks[found[1]][found[0]] += 1
    return {stack for stack, found in blocks.items() if len(found) > 1 and min(found.values()) >= _LEAST_BLOCK}


def _text_tower(shapes: Shapes) -> tuple[str, int] | None:
    """Root and width of the language model: a token embedding and the blocks beside it."""
    for name, shape in sorted(shapes.items(), key=lambda item: -(item[1][0] if item[1] else 0)):
        if len(shape) == 2 and _TOKENS.match(name):
            root = _root(name, shapes)
            if root is not None:
                return root, shape[1]
    return None


def _vision_tower(shapes: Shapes) -> tuple[str, int] | None:
    """Root and width of the vision tower: a patch embedding, from one to four channels, and the blocks beside it."""
    for name, shape in sorted(shapes.items()):
        if len(shape) >= 4 and shape[1] <= 4 and _PATCHES.match(name):
            root = _root(name, shapes)
            if root:
                return root, shape[0]
    return None


def _root(name: str, shapes: Shapes) -> str | None:
    """The innermost module around a tensor that also holds a stack of blocks; "" is the model itself."""
    stacks = _stacks(shapes)
    parts = name.split(".")[:-1]
    for depth in range(len(parts) - 1, -1, -1):
        root = ".".join(parts[:depth])
        if any(not root or stack.startswith(f"{root}.") for stack in stacks):
            return root
    return None
