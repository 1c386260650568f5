"""Turns the ```math blocks into MathML when the site is built: no script and no font is fetched to show them."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert


def on_page_content(text: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    block = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
    return block.sub(lambda found: convert(html.unescape(found[1].strip()), display="block"), text)
