"""The lens report's plots. Each returns an <svg> whose label tells its figures; no two may have the same `name`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from projclean.lens.neurons import Contrast
from projclean.lens.rank_curves import RankCurves
from projclean.lens.shift import Shift
from projclean.lens.spectra import Spectrum
from projclean.report.lens_names import last_part, rank_name
from projclean.report.svg import INK, SERIES, plot


def singular_values(name: str, spectra: Mapping[str, Spectrum]) -> str:
    """Singular values of one layer for several models, and each model's noise edge."""

    def draw(axes: Any) -> None:
        for color, (model, found) in zip(cycle(SERIES), spectra.items(), strict=False):
            axes.plot(range(1, len(found.singular_values) + 1), found.singular_values, color=color, label=model)
            axes.axhline(found.noise_edge, color=color, linestyle=":", linewidth=1)
        largest = max(found.singular_values[0] for found in spectra.values())
        axes.set(yscale="log", xlabel="direction", ylabel="singular value")
        if largest:
            axes.set_ylim(1e-3 * largest, 1.5 * largest)  # below lies the rounding of the weights
        _plain_numbers(axes.yaxis)
        _rank_axis(axes)
        axes.legend(loc="lower left")

    return plot(name, "Singular values. " + _told(spectra), draw)


def energy(name: str, spectra: Mapping[str, Spectrum]) -> str:
    """Cumulative energy of one layer's update for several models."""

    def draw(axes: Any) -> None:
        for color, (model, found) in zip(cycle(SERIES), spectra.items(), strict=False):
            axes.plot(range(1, len(found.cumulative_energy) + 1), found.cumulative_energy, color=color, label=model)
        axes.set(ylim=(0, 1.02), xlabel="directions", ylabel="share of the energy")
        _rank_axis(axes)
        axes.legend(loc="lower right")

    return plot(name, "Cumulative energy. " + _told(spectra), draw)


def rank_curve(name: str, curves: RankCurves, mode: str, rate: str) -> str:
    """One rate against the rank, each layer alone (the first three) and all together."""
    layers = curves.layers[:3] if len(curves.layers) > 1 else ()
    lines = {f"{last_part(layer)} alone": curves.curve(mode, layer) for layer in layers}
    lines["all layers"] = curves.curve(mode, None)

    def draw(axes: Any) -> None:
        for color, marker, (line, points) in zip(SERIES, "osD^", lines.items(), strict=False):
            values = [found[rate].value for _, found in points]
            axes.plot([rank_name(k) for k, _ in points], values, marker=marker, color=color, label=line, markersize=4)
        axes.axhline(curves.suspect[rate].value, color=INK, linestyle="--", linewidth=1, label="suspect")
        axes.axhline(curves.base[rate].value, color=INK, linestyle=":", linewidth=1, label="base")
        axes.set(ylim=(-0.03, 1.03), xlabel="rank k", ylabel=rate)
        axes.figure.legend(loc="outside upper center", ncols=3)

    told = "; ".join(
        f"{line}: " + ", ".join(f"{rank_name(k)}: {found[rate].value:.2f}" for k, found in points)
        for line, points in lines.items()
    )
    return plot(name, f"{rate} under {mode}, by rank. {told}", draw)


def firing(name: str, contrast: Contrast) -> str:
    """Every neuron's activation frequency before and after."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        axes.plot(contrast.before, contrast.after, "o", color=SERIES[0], markersize=3, alpha=0.6)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="share of tokens before", ylabel="after")

    label = (
        f"{contrast.name}: activation frequency of {len(contrast.before)} neurons before and after. Largest gap "
        f"{contrast.largest_gap:.2f}; {len(contrast.silent_to_active)} silent neurons became active"
    )
    return plot(name, label, draw)


def cloud(name: str, model: str, shifts: Sequence[Shift]) -> str:
    """Size of the shift against the norm of the base's token, set by set, with the fitted lines."""

    def draw(axes: Any) -> None:
        for color, found in zip(cycle(SERIES), shifts, strict=False):
            x, y = zip(*found.pairs, strict=True)
            axes.plot(x, y, "o", color=color, markersize=1.8, alpha=0.5)
            ends = [min(x), max(x)]
            fitted = [found.line.intercept + found.line.slope * end for end in ends]
            axes.plot(ends, fitted, color=color, label=found.name)
        axes.set(xlabel="norm of the base's token", ylabel="size of the shift", ylim=(0, None))
        axes.legend(loc="upper left")

    told = "; ".join(f"{s.name}: slope {s.line.slope:.2f}, correlation {s.line.r:.2f}" for s in shifts)
    return plot(name, f"Size of the shift against the norm of the base's token, {model}. {told}", draw)


def _told(spectra: Mapping[str, Spectrum]) -> str:
    return "; ".join(
        f"{model}: {found.above_edge} of {len(found.singular_values)} values above the noise edge, 90 % of the energy "
        f"in {found.rank_90}"
        for model, found in spectra.items()
    )


def _rank_axis(axes: Any) -> None:
    axes.set_xscale("log", base=2)
    _plain_numbers(axes.xaxis)


def _plain_numbers(axis: Any) -> None:
    """Logarithmic ticks as plain numbers, not as powers set in maths."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
