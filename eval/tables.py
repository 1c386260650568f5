"""The tables as Markdown, from figures."""

from __future__ import annotations

from collections.abc import Sequence

from eval.figures import Figures, ModelFigures, group
from eval.manifest import DISGUISE, WORKS
from eval.pooled import LOW_ASR, Mean, gain_against, oracle_interpolation, over_models
from projclean.intervals import Interval, auroc, few_items, few_models, tpr_at_fpr
from projclean.metrics import Difference, Rate

FALSE_POSITIVES = 0.1

#: What every defence is compared with, model by model: the first of these that was measured.
REFERENCES = ("projclean distill from 0.3", "projclean rank auto")


def markdown(title: str, command: str, setting: str, models: Sequence[ModelFigures], plot: str) -> str:
    """Summary, one table a model, detection."""
    lines = [
        f"# {title}",
        "",
        f"`{command}`: {setting}. CA clean accuracy, ASR attack success rate, RA robust accuracy "
        "(triggered images answered as their clean ones should be). Brackets are 95 % intervals: Wilson's for rates, a "
        "paired bootstrap over items for changes and for gain retained; p is McNemar's exact test against the "
        "undefended model on the same items. They say how far the items vary, not how far models do.",
        "",
        *(f"**Warning:** {warning}." for warning in _warnings(models)),
        "",
        f"![attack success against gain retained]({plot})",
        "",
    ]
    lines += pooled(models)
    lines += _summary(models)
    for kind, chosen in (("Backdoored", [m for m in models if m.backdoored]), ("Benign", _benign(models))):
        if chosen:
            lines += [f"## {kind} models", ""]
        for model in chosen:
            lines += _model(model)
    lines += _detection(models)
    return "\n".join(lines).rstrip() + "\n"


def _benign(models: Sequence[ModelFigures]) -> list[ModelFigures]:
    return [model for model in models if not model.backdoored]


def _warnings(models: Sequence[ModelFigures]) -> list[str]:
    few = few_items(min(n for model in models for n in (model.n, *_attacked_items(model))))
    weak = [model.name for model in models if not model.counts]
    found = [few] if few else []
    if weak:
        found.append(
            f"attack below {WORKS:g} undefended or above {DISGUISE:g} on the base, left out of the summary: "
            + ", ".join(weak)
        )
    return found


def pooled(models: Sequence[ModelFigures]) -> list[str]:
    """Every defence over all attacks and over all benign models, and each against the repair."""
    attacked, benign = [m for m in models if m.backdoored and m.counts], _benign(models)
    names = list(dict.fromkeys(group(row.defence) for model in models for row in model.rows))
    reference = next((name for name in REFERENCES if name in names), None)
    heads = ["defence", "ASR", "worst", f"ASR ≤ {LOW_ASR:g}", "RA", "gain retained", "change of benign CA"]
    if reference:
        heads.insert(6, "gain against")
    lines = [
        "## Over all models",
        "",
        f"Means over {len(attacked)} backdoored and {len(benign)} benign models. Brackets are 95 % intervals of a "
        "bootstrap over models: how far models differ. A number in round brackets: measured on so many benign ones."
        + (f" *Gain against* is gain retained minus that of `{reference}`, model by model." if reference else ""),
        "",
        _cells(*heads),
        _cells(*["---"] * len(heads)),
    ]
    for name in names:
        mean, cost = over_models(attacked, name), over_models(benign, name)
        cells = _attacked(mean)
        if reference:
            paired = None if name == reference else gain_against(attacked, name, reference)
            cells.append(_interval(paired, "+.0%"))
        lines.append(_cells(name, *cells, _interval(cost.cost if cost else None, "+.3f") + _of(cost, benign)))
    best = oracle_interpolation(attacked, reference) if reference else None
    if best:
        lines += [
            "",
            f"The best point of the interpolation sweep with no higher ASR than `{reference}`, chosen model by model "
            f"by an oracle, retains {_interval(best, '+.0%')} of the gain against it.",
        ]
    return [*lines, ""]


def _of(mean: Mean | None, models: Sequence[ModelFigures]) -> str:
    """On how many models a defence was measured, where it was not on all."""
    return "" if mean is None or mean.models == len(models) else f" ({mean.models})"


def _attacked(mean: Mean | None) -> list[str]:
    if mean is None:
        return ["–"] * 5
    worst = "–" if mean.worst_asr is None else f"{mean.worst_asr:.3f}"
    asr, ra, kept = _interval(mean.asr, ".3f"), _interval(mean.ra, ".3f"), _interval(mean.gain, ".0%")
    return [asr, worst, f"{mean.held}/{mean.models}", ra, kept]


def _interval(found: Interval | None, form: str) -> str:
    return "–" if found is None else f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def _summary(models: Sequence[ModelFigures]) -> list[str]:
    """Every attack × every defence: means over models, and what each defence costs benign ones."""
    attacks: dict[str, list[ModelFigures]] = {}
    for model in models:
        if model.backdoored and model.counts:
            attacks.setdefault(model.family, []).append(model)
    benign = _benign(models)
    names = list(dict.fromkeys(group(row.defence) for model in models for row in model.rows))
    titles = [f"{attack} ({len(of)})" for attack, of in attacks.items()]
    lines = [
        "## Every family of attacks × every defence",
        "",
        "ASR · gain retained, means over models (their number in brackets; where there are several, the highest ASR "
        "after a slash), random seeds pooled. The last column is the mean change of CA of benign models.",
        "",
        _cells("defence", *titles, f"benign ({len(benign)})"),
        _cells("---", *["---"] * (len(titles) + 1)),
    ]
    for name in names:
        cells = []
        for of in attacks.values():
            mean = over_models(of, name)
            if mean is None or mean.asr is None:
                cells.append("–")
                continue
            worst = f"/{mean.worst_asr:.2f}" if mean.models > 1 else ""
            kept = "–" if mean.gain is None else f"{mean.gain.value:.0%}"
            cells.append(f"{mean.asr.value:.2f}{worst} · {kept}")
        cost = over_models(benign, name)
        cells.append("–" if cost is None or cost.cost is None else f"{cost.cost.value:+.3f}{_of(cost, benign)}")
        lines.append(_cells(name, *cells))
    return [*lines, ""]


def _attacked_items(model: ModelFigures) -> list[int]:
    """How many items each attack is measured on: fewer than the clean ones where it wants what is right of some."""
    return [attack.asr.n for attack in model.rows[0].attacks]


def _model(model: ModelFigures) -> list[str]:
    seed = "" if model.seed is None else f", trained with seed {model.seed}"
    heads = ["defence", "CA", "change", "p"]
    attacks = model.rows[0].attacks
    for attack in attacks:
        label = f" {attack.name}" if len(attacks) > 1 else ""
        heads += [f"ASR{label}", f"RA{label}"]
    heads += ["gain retained", "note"]
    fewer = [f"{n} triggered" for n in _attacked_items(model) if n != model.n]
    size = ", ".join([f"n = {model.n} a set" if not fewer else f"n = {model.n} clean", *fewer])
    lines = [f"### {model.name}{seed}, {size}", "", _cells(*heads), _cells(*["---"] * len(heads))]
    return [*lines, *(_row(row, len(heads)) for row in model.rows), ""]


def _row(row: Figures, width: int) -> str:
    if row.ca is None or row.change is None:
        return _cells(row.defence, *[""] * (width - 2), row.note)
    cells = [_rate(row.ca), _change(row.change), f"{row.change.p:.2g}"]
    for attack in row.attacks:
        cells += [_rate(attack.asr), _rate(attack.ra)]
    gain = "–" if row.gain is None else f"{row.gain:.0%}"
    if row.interval is not None:
        gain += f" [{row.interval.low:.0%}, {row.interval.high:.0%}]"
    return _cells(row.defence, *cells, gain, row.note)


def _detection(models: Sequence[ModelFigures]) -> list[str]:
    scanned = [model for model in models if model.scan is not None]
    if not scanned:
        return []
    lines = [
        "## Detection",
        "",
        "`projclean scan` with built-in images.",
        "",
        _cells("model", "", "verdict", "score", "what it was made to say"),
        _cells(*["---"] * 5),
    ]
    scores: dict[bool, list[float]] = {True: [], False: []}
    for model in scanned:
        found, score = model.scan or {}, (model.scan or {}).get("score")
        if score is not None:
            scores[model.backdoored].append(score)
        kind = "backdoored" if model.backdoored else "benign"
        shown = "" if score is None else f"{score:.2f}"
        lines.append(_cells(model.name, kind, found["verdict"], shown, found.get("said") or ""))
    if scores[True] and scores[False]:
        area = auroc(scores[True], scores[False])
        point = tpr_at_fpr(scores[True], scores[False], FALSE_POSITIVES)
        lines += [
            "",
            f"AUROC {area.value:.2f} [{area.low:.2f}, {area.high:.2f}] (DeLong; Newcombe's where the classes part). "
            f"At a score of {point.threshold:.2f}, the lowest with at most {FALSE_POSITIVES:.0%} false alarms on these "
            f"models: TPR {_rate(point.tpr)}, FPR {_rate(point.fpr)} (Clopper and Pearson).",
        ]
        warning = few_models(len(scores[True]), len(scores[False]))
        lines += ["", f"**Warning:** {warning}: these intervals are wide."] if warning else []
    return [*lines, ""]


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rate(rate: Rate) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def _change(change: Difference) -> str:
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
