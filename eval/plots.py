"""The plot beside a table: attack success against gain retained, and what each defence costs benign models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.defences import DEFENCES
from eval.figures import ModelFigures, group
from eval.pooled import over_models

METHODS = {group(defence.name): defence.method for defence in DEFENCES}
#: Colour and marker of each method; the interpolation sweep is a line through its points.
STYLES = {
    "undefended": ("black", "X"),
    "base restored": ("grey", "s"),
    "never poisoned": ("black", "*"),
    "interpolation": ("#888888", "."),
    "SVD removal": ("#e69f00", "v"),
    "random removal": ("#c7b299", "1"),
    "OrthoPurify": ("#0072b2", "D"),
    "Fine-Pruning": ("#cc79a7", "P"),
    "CLP": ("#d55e00", "^"),
    "clean fine-tuning": ("#56b4e9", "h"),
    "relearning": ("#7f3c8d", "p"),
    "norm clip": ("#b8a000", "*"),
    "distill, images alone": ("#66c2a4", "."),
    "projclean": ("#009e73", "o"),
}


def draw(models: Sequence[ModelFigures], file: Path) -> None:
    """Write the plot, a panel for every attack and one for benign models. The same figures give the same file."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    attacks: dict[str, list[ModelFigures]] = {}
    for model in models:
        if model.backdoored and model.counts:
            attacks.setdefault(model.family, []).append(model)
    benign = [model for model in models if not model.backdoored]
    panels = len(attacks) + bool(benign)
    across = min(panels, 3)
    down = -(-panels // across) if panels else 1
    with plt.rc_context({"svg.hashsalt": "projclean", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = plt.subplots(
            down, max(across, 1), figsize=(4 * max(across, 1), 4.6 * down), squeeze=False, layout="constrained"
        )
        places = list(axes.flat)
        for axis, (attack, of) in zip(places, attacks.items(), strict=False):
            _attack(axis, attack, of)
        if benign:
            _benign(places[len(attacks)], benign)
        for axis in places[panels:]:
            axis.set_visible(False)
        legend: dict[str, Any] = {}
        for axis in places:
            legend |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=6, frameon=False)
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


def _attack(axis: Any, attack: str, models: Sequence[ModelFigures]) -> None:
    sweep = []
    for name, method in METHODS.items():
        mean = over_models(models, name)
        if mean is None or mean.asr is None or mean.gain is None:
            continue
        color, marker = STYLES[method]
        axis.scatter(mean.gain.value, mean.asr.value, color=color, marker=marker, label=method, zorder=3, s=28)
        if method in ("undefended", "base restored", "interpolation"):
            share = float(name.split()[-1]) if method == "interpolation" else float(method == "undefended")
            sweep.append((share, mean.gain.value, mean.asr.value))
    sweep.sort()
    axis.plot([gain for _, gain, _ in sweep], [asr for *_, asr in sweep], color="#888888", lw=0.8, zorder=1)
    axis.set(xlabel="gain retained", ylabel="ASR", title=f"{attack}, models: {len(models)}", ylim=(-0.05, 1.05))
    axis.grid(alpha=0.3)


def _benign(axis: Any, models: Sequence[ModelFigures]) -> None:
    names = [name for name in METHODS if name != "undefended" and over_models(models, name) is not None]
    for row, name in enumerate(reversed(names)):
        color, marker = STYLES[METHODS[name]]
        for model in models:
            for change in (found.change for found in model.rows if group(found.defence) == name):
                if change is not None:
                    axis.plot([change.low, change.high], [row, row], color=color, lw=0.8, alpha=0.6)
                    axis.scatter(change.value, row, color=color, marker=marker, label=METHODS[name], s=14)
    axis.set_yticks(range(len(names)), [*reversed(names)], fontsize=5)
    axis.set(xlabel="change of CA", title=f"benign, models: {len(models)}")
    axis.axvline(0, color="black", lw=0.8)
    axis.grid(alpha=0.3, axis="x")
