"""Plots as inline SVG that takes its colours from the page, so that one picture serves light and dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from importlib.util import find_spec
from typing import Any

from projclean.errors import OptionError

#: What matplotlib draws with, and the page's colour that takes its place.
INK, GRID = "#010203", "#020304"
SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404")
_COLORS = {INK: "currentColor", GRID: "var(--grid)"} | {c: f"var(--c{n})" for n, c in enumerate(SERIES, 1)}
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # names are the user's
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def require_matplotlib() -> None:
    """Raise OptionError when there is nothing to plot with."""
    if find_spec("matplotlib") is None:
        raise OptionError("--format html: needs matplotlib; install it with: pip install 'projclean[html]'")


def plot(name: str, label: str, draw: Callable[[Any], None]) -> str:
    """An <svg> drawn by `draw(axes)`; `name` keeps its ids apart from other plots', `label` is its alternative text."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that matplotlib's font lacks the reader's may have
        matplotlib.rcdefaults()  # whatever a configuration file says
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(4.4, 3.0), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, label)


def _inline(svg: str, name: str, label: str) -> str:
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    for drawn, color in _COLORS.items():
        svg = svg.replace(drawn, color)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    head, _, rest = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None  # matplotlib always writes one
    return (
        f'<svg {box.group()} xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{rest}"
    )
