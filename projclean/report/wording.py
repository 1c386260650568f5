"""Figures of a saved report in words: rates with their intervals, differences, what a sweep says."""

from __future__ import annotations

from collections.abc import Sequence

from projclean.report.saved import Report

UNLIKELY = 0.05  # p-values below it are called a loss or a gain


def compared(before: Report, after: Report, kept: str | None, change: Report | None) -> str:
    """What happened to clean accuracy and attack success between two scores; `kept` is the share of the gain."""
    text = f"Clean accuracy was {rate(before['ca'])} and is {rate(after['ca'])}"
    text += "" if change is None else f": it {moved(change)}"
    text += "." if kept is None else f". {kept} of the fine-tune's gain over the base is kept."
    if before["worst_asr"] is not None and after["worst_asr"] is not None:
        text += f" Attack success went from {before['worst_asr']:.1%} to {after['worst_asr']:.1%}."
    return text


def kept(report: Report, number: int) -> str | None:
    """The share of the gain that a score retains, with its interval where the report has it."""
    gain = report["gains"][number]
    if gain is None:
        return None
    interval = report["gain_intervals"][number] if "gain_intervals" in report else None
    return f"{gain:.0%}" + (f" [{interval['low']:.0%}, {interval['high']:.0%}]" if interval else "")


def sweep(report: Report) -> list[str]:
    """How plain interpolation with the base does: the honest yardstick of a repair."""
    peer = next((score for score in report["scores"] if score["model"] == report["same_asr"]), None)
    if peer is None:
        return []
    ours, theirs = report["scores"][2]["ca"]["value"], peer["ca"]["value"]
    than = "as much" if theirs == ours else "more" if theirs > ours else "less"
    return [
        f"Plain {peer['model']} between base and suspect keeps {than} clean accuracy ({theirs:.0%} to {ours:.0%}) at "
        "no more attack success on this set; but which share does so can only be told with the attack at hand."
    ]


def attacks(score: Report) -> str:
    """How each attack does on a model."""
    if not score["attacks"]:
        return "No attack was measured."
    return " ".join(
        f"Attack {attack['name']} succeeds on {rate(attack['asr'])} of triggered items; {attack['ra']['value']:.0%} "
        "of them are still answered rightly."
        for attack in score["attacks"]
    )


def samples(scores: Sequence[Report]) -> str:
    """How many items the rates rest on."""
    sizes = {score["ca"]["n"] for score in scores} | {a["asr"]["n"] for score in scores for a in score["attacks"]}
    shown = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
    warnings = " ".join(f"Beware: {warning}." for warning in scores[0]["warnings"])
    return f"Each rate rests on {shown} items; its 95 % interval is in brackets. {warnings}".strip()


def moved(change: Report) -> str:
    """What a paired difference says, as a predicate."""
    p = f"p = {change['p']:.2g}" if change["p"] >= 1e-4 else "p < 0.0001"
    size = f"{change['value']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}], {p}"
    if change["p"] >= UNLIKELY:
        return f"does not differ measurably in clean accuracy ({size})"
    return f"{'gains' if change['value'] > 0 else 'loses'} clean accuracy ({size})"


def rate(found: Report) -> str:
    """A rate with its 95 % interval."""
    return f"{found['value']:.0%} [{found['low']:.0%}, {found['high']:.0%}]"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number of things."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def few(lines: Sequence[str], most: int = 5) -> str:
    """The first of many lines in one."""
    return "; ".join(lines[:most]) + (f"; and {len(lines) - most} more" if len(lines) > most else "")
