"""The lens report as one HTML page: every figure in a table, the curves and clouds also as plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from projclean.lens.analysis import LensResult
from projclean.lens.neurons import ACTIVE, SILENT
from projclean.lens.rank_curves import Point, RankCurves
from projclean.metrics import Rate
from projclean.report import lens_plots
from projclean.report.lens_names import items_of, last_part, rank_name, short_names
from projclean.report.page import page

PLOTTED_LAYERS = 4  # of a projector with many; the tables have all


def render(result: LensResult, plain: bool = False) -> str:
    """The page; `plain` makes no difference."""
    names = short_names(result)
    body = [_head(result), _spectra(result, names)]
    if result.curves is not None:
        body.append(_curves(result.curves))
    body += [_neurons(result, names), _shift(result, names), _words(result, names)]
    return page(f"projclean lens: {result.model}", f"<main>\n{''.join(body)}</main>")


def _head(result: LensResult) -> str:
    rows = {
        "base": f"{result.base} (named by {result.base_named_by})",
        "references": ", ".join(each.name for each in result.references) or "none given",
        "images": result.images + "".join(f", {n} {name}" for name, n in list(result.sets.items())[1:]),
        "projector": f"{result.family}; seed {result.seed}",
        "SHA-256": f"suspect {result.sha256['suspect'][:16]}…, base {result.sha256['base'][:16]}…",
    }
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in rows.items())
    warning = "" if result.references else (
        "<p><strong>No benign reference was given.</strong> Most of what follows is also seen in harmless fine-tunes; "
        "without one beside it, it says little.</p>"
    )  # fmt: skip
    return (
        f"<h1>What the update of {escape(result.model)} does</h1>\n<dl>{listed}</dl>\n{warning}"
        "<p>The lens measures and does not judge: nothing here is a verdict, which is what "
        "<code>projclean scan</code> is for.</p>\n"
    )


def _spectra(result: LensResult, names: Mapping[str, str]) -> str:
    subjects = [result.suspect, *result.references]
    figures = []
    for number, layer in enumerate(result.suspect.spectra[:PLOTTED_LAYERS]):
        every = {names[each.name]: each.spectra[number] for each in subjects}
        figures += [
            _figure(lens_plots.singular_values(f"sv{number}", every),
                    f"{layer.layer}: singular values; dotted: where noise would end"),
            _figure(lens_plots.energy(f"en{number}", every), f"{layer.layer}: energy of the first directions"),
        ]  # fmt: skip
    table = _table(
        "Spectrum of the update, layer by layer",
        ["model", "layer", "out×in", "‖ΔW‖/‖W‖", "‖Δb‖/‖b‖", "numerical rank", "stable rank", "effective rank",
         "for 90 % energy", "above noise"],
        [
            [names[each.name], last_part(s.layer), f"{s.shape[0]}×{s.shape[1]}", f"{s.relative_change:.3f}",
             "" if s.bias_change is None else f"{s.bias_change:.3f}", str(s.numerical_rank), f"{s.stable_rank:.1f}",
             f"{s.effective_rank:.1f}", str(s.rank_90), str(s.above_edge)]
            for each in subjects
            for s in each.spectra
        ],
    )  # fmt: skip
    return _section(
        "Spectra",
        "How many directions the update of each layer has. A trained update is full-rank by count and concentrated by "
        "energy, with a backdoor or without. The noise edge is where the largest singular value of white noise with "
        "the same median would lie (1 % level).",
        _plots(figures) + table,
    )


def _curves(curves: RankCurves) -> str:
    figures = []
    rates = list(curves.suspect)
    for mode, what in (("injection", "base + ΔW_k"), ("ablation", "suspect − ΔW_k")):
        figures += [
            _figure(lens_plots.rank_curve(f"{mode}{place}", curves, mode, rate), f"{mode}, {what}: {rate}")
            for place, rate in enumerate(rates)
        ]
    ends = _table(
        f"The ends, {items_of(curves.suspect)}, 95 % intervals in brackets",
        ["weights", *rates],
        [
            [name, *(_interval(found[rate]) for rate in rates)]
            for name, found in (
                ("base", curves.base), ("base with the suspect's biases", curves.biases_only),
                ("suspect", curves.suspect),
            )
        ],
        texts=1,
    )  # fmt: skip
    grids = ""
    if len(curves.layers) == 2 and any(len(set(p.ranks)) == 2 and 0 not in p.ranks for p in curves.injection):
        for mode, corner in (("injection", curves.base), ("ablation", curves.suspect)):
            points = curves.injection if mode == "injection" else curves.ablation
            grids += "".join(_grid(curves, mode, rate, [Point((0, 0), corner), *points]) for rate in rates)
        grids = f"<details open><summary>The grid of ranks, k₁ × k₂</summary>{_plots([grids])}</details>\n"
    return _section(
        "Rank curves",
        "What the top k singular directions of the update do when they alone are added to the base (injection), and "
        "what is left when they are taken from the suspect (ablation). A backdoor is low-rank in a telling way only "
        "where attack success comes, or goes, at a rank at which clean accuracy does not.",
        _plots(figures) + ends + grids,
    )


def _grid(curves: RankCurves, mode: str, rate: str, points: Sequence[Point]) -> str:
    found = {point.ranks: point.rates[rate].value for point in points}
    steps: list[int | None] = [0, *curves.ranks, None]
    first, second = map(last_part, curves.layers)
    head = "".join(f'<th scope="col">{rank_name(k)}</th>' for k in steps)
    rows = "".join(
        f'<tr><th scope="row">{rank_name(one)}</th>'
        + "".join(
            f'<td style="background: color-mix(in srgb, var(--c1) {45 * found[one, two]:.0f}%, transparent)">'
            f"{f'{found[one, two]:.2f}'.removeprefix('0')}</td>"
            for two in steps
        )
        + "</tr>"
        for one in steps
    )
    caption = f"{mode}: {rate}; rows {first}, columns {second}"
    return _scroll(
        caption,
        f'<table class="heat"><caption>{escape(caption)}</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>",
    )


def _neurons(result: LensResult, names: Mapping[str, str]) -> str:
    subjects = [each for each in (result.suspect, *result.references) if each.contrasts]
    if not subjects:
        return _section("Hidden neurons", "This projector is one matrix: it has no hidden layer.", "")
    figures = [
        _figure(lens_plots.firing(f"neuron{place}", found), f"{found.name}, a dot a neuron")
        for place, found in enumerate(result.suspect.contrasts)
    ]
    table = _table(
        "Activation frequencies, compared",
        ["model", "before → after", "largest gap", "mean gap", "silent before", "silent → active"],
        [
            [names[each.name], found.name, f"{found.largest_gap:.3f}", f"{found.mean_gap:.3f}",
             str(found.silent_before), str(len(found.silent_to_active))]
            for each in subjects
            for found in each.contrasts
        ],
    )  # fmt: skip
    gaps = _table(
        "The suspect's largest gaps",
        ["before → after", "neuron", "tokens before", "tokens after", "images before", "images after"],
        [
            [found.name, str(gap.neuron),
             *(f"{share:.3f}" for share in (gap.tokens_before, gap.tokens_after, gap.images_before, gap.images_after))]
            for found in result.suspect.contrasts
            for gap in found.gaps[:5]
        ],
    )  # fmt: skip
    return _section(
        "Hidden neurons",
        "How often each neuron of the hidden layer is active (above zero). A trigger neuron would be silent on clean "
        f"images (active on at most {SILENT:.0%} of them) and active on triggered ones (at least {ACTIVE:.0%}). The "
        "base's own response to the trigger, and the difference between two halves of the clean images, say how much "
        "of a gap is nothing special.",
        _plots(figures) + table + f"<details><summary>Largest gaps, neuron by neuron</summary>{gaps}</details>\n",
    )


def _shift(result: LensResult, names: Mapping[str, str]) -> str:
    subjects = [result.suspect, *result.references]
    figures = [
        _figure(lens_plots.cloud(f"shift{place}", names[each.name], each.shifts), f"{names[each.name]}, a dot a token")
        for place, each in enumerate(subjects)
    ]
    direction = _table(
        "Is the shift shared?",
        ["model", "images", "n", "top-1", "top-5", "mean cosine", "with Δb", "with the suspect's"],
        [
            [names[each.name], s.name, str(s.images), f"{s.top1:.3f}", f"{s.top5:.3f}", f"{s.mean_cosine:.3f}",
             "" if s.bias_cosine is None else f"{s.bias_cosine:.3f}",
             "" if each is result.suspect else f"{each.with_suspect[s.name]:.3f}"]
            for each in subjects
            for s in each.shifts
        ],
    )  # fmt: skip
    size = _table(
        "Does it grow with the norm? 95 % bootstrap intervals over images in brackets",
        ["model", "images", "norm", "shift", "slope", "r"],
        [
            [names[each.name], s.name, f"{s.norm:.1f}", f"{s.magnitude:.1f}",
             f"{s.line.slope:.2f} [{s.line.slope_low:.2f}, {s.line.slope_high:.2f}]",
             f"{s.line.r:.2f} [{s.line.r_low:.2f}, {s.line.r_high:.2f}]"]
            for each in subjects
            for s in each.shifts
        ],
    )  # fmt: skip
    pairs = [[names[each.name], f"{a.first}, {a.second}", f"{a.cosine:.3f}"] for each in subjects
             for a in each.alignments]  # fmt: skip
    same = _table("Clean and triggered the same way?", ["model", "images", "cosine"], pairs) if pairs else ""
    return _section(
        "Shift of image tokens",
        "Where the update moves the tokens that the language model reads. Top-1 and top-5 are the energy of the "
        "images' mean shifts along one and five directions; the mean cosine is over pairs of images; with Δb says how "
        "much of the shared direction is the last bias, which every token gets.",
        _plots(figures) + direction + same + size,
    )


def _words(result: LensResult, names: Mapping[str, str]) -> str:
    subjects = [result.suspect, *result.references]
    attacks = list(result.suspect.words[0].target_ranks) if result.suspect.words else []
    head = ["direction", "read through", *(f"rank of {attack} target" for attack in attacks), "first words"]
    tables = [
        _table(
            f"{names[each.name]}: words along the shift",
            head,
            [
                [found.direction, f"{found.lens}{', centred' if found.centred else ''}",
                 *(f"{found.target_ranks[attack]:.0f}" for attack in attacks),
                 " ".join(word.text for word in found.words)]
                for found in each.words
            ],
            long=True,
        )
        for each in subjects
    ]  # fmt: skip
    size = result.suspect.words[0].vocabulary if result.suspect.words else 0
    return _section(
        "Words",
        "The words that the shared direction points at, through the final norm and lm_head or in the table of input "
        "embeddings; centred: less what the images' own tokens score. The rank is the median over the target's tokens, "
        f"of {size}; by chance it is half of that.",
        "".join(tables),
    )


def _section(title: str, lead: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(lead)}</p>\n{body}</section>\n"


def _plots(figures: Iterable[str]) -> str:
    return f'<div class="plots">{"".join(figures)}</div>\n'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>\n"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 2, long: bool = False) -> str:
    """A table whose first `texts` columns are words, the others figures; `long`: the last holds running text."""

    def cell(tag: str, place: int, text: str) -> str:
        kind = "text" if place < texts else "long" if long and place == len(head) - 1 else ""
        scope = ' scope="col"' if tag == "th" else ""
        style = f' class="{kind}"' if kind else ""
        return f"<{tag}{scope}{style}>{escape(text)}</{tag}>"

    reading = ' class="reading"' if long else ""
    titles = "".join(cell("th", place, title) for place, title in enumerate(head))
    lines = "".join(f"<tr>{''.join(cell('td', place, text) for place, text in enumerate(row))}</tr>\n" for row in rows)
    return _scroll(
        caption,
        f"<table{reading}><caption>{escape(caption)}</caption><thead><tr>{titles}</tr></thead>\n<tbody>{lines}</tbody></table>",
    )


def _scroll(label: str, table: str) -> str:
    """A table that scrolls sideways on its own, also from the keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>\n'


def _interval(rate: Rate) -> str:
    return f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]"
