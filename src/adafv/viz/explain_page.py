"""Draw an `Explanation`: panels from the image to the answer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from adafv.data.judging import same_answer
from adafv.models.ask import Answer
from adafv.utils.checks import checked
from adafv.viz import figure as style
from adafv.viz.explained_answer import Explanation, split_curves
from adafv.viz.maps import draw_image, draw_kept, draw_relevance, draw_saliency
from adafv.viz.stages import Stage

__all__ = ["draw"]

CAPTION = 15  # of a panel, which has one line
FACTS = 160  # height of the numbers beside an image
LIST = 240  # and of the words beside a map
# name, colour and line width of each curve over the splits of a budget
CURVES = (
    ("saliency", style.SALIENCY, 1.6),
    ("relevance", style.RELEVANCE, 1.6),
    ("both: geometric mean", style.INK, 2.4),
)

# what draws a panel's body: on which figure, x and y of its upper left corner, of what
Body = Callable[[style.PixelFigure, float, float, Explanation], None]


@checked
def draw(what: Explanation) -> Figure:
    """Draw the page: six panels where a method mixes two signals, fewer where less is to show."""
    # two to a row, where none would be left over: a narrow page is read at a smaller scale
    panels = _panels(what)
    columns = 3 if len(panels) % 2 else 2
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [style.HEAD + _height(row, what) for row in rows]
    figure = style.PixelFigure(
        2 * style.MARGIN + columns * style.PANEL + (columns - 1) * style.GAP,
        style.TOP + sum(heights) + (len(rows) - 1) * style.ROW + style.BOTTOM,
    )

    # row after row, panels numbered in reading order
    _heading(figure, what)
    y = style.TOP
    number = 0
    for row, height in zip(rows, heights, strict=True):
        for column, (title, caption, body) in enumerate(row):
            number += 1
            x = style.MARGIN + column * (style.PANEL + style.GAP)
            figure.text(x, y + 12, str(number), 20, style.GREY)
            figure.text(x + 24, y + 12, title, 20, style.INK, weight="bold")
            figure.text(x, y + 40, caption, CAPTION, style.GREY)
            body(figure, x, y + style.HEAD, what)
        y += height + style.ROW
    return figure.finished()


def _height(row: list[tuple[str, str, Body]], what: Explanation) -> int:
    """Return the height of a row: less where it holds but a wide image and what is beside it."""
    bodies = {body for _, _, body in row}
    wide = {draw_image, draw_saliency, draw_relevance}
    # a thumbnail stands above the words
    if not bodies <= wide or (draw_relevance in bodies and len(what.scales) > 1):
        return style.BODY
    beside = LIST if draw_relevance in bodies else FACTS
    return max(beside, round(style.BODY * what.image.height / max(what.image.size)))


def _panels(what: Explanation) -> list[tuple[str, str, Body]]:
    """Return title, caption and drawing of every panel that a method has something for."""
    # what frames mean depends on the method
    kept = "Framed patches reach the language model, the rest is dropped."
    if what.merged:
        kept = "Every patch is averaged into the frame nearest to it."
    elif len(what.kept) == what.pruned.visual_tokens:
        kept = "Everything: the language model reads every patch."

    shown = ("The image", "What is asked about.")
    if what.frames:
        shown = ("The frames", "What is asked about, row after row.")

    placed = bool(what.scales)
    if not placed:
        kept = "Which tokens reach the language model; where they lie is not known."

    # whether a panel applies, its title, its caption, what draws it
    panels: list[tuple[bool, str, str, Body]] = [
        (True, *shown, draw_image),
        (
            what.saliency is not None and placed,
            "What stands out",
            "Saliency: where the vision tower looks, whatever the question."
            if what.attention
            else "Saliency: what differs from the rest, whatever the question.",
            draw_saliency,
        ),
        (
            what.relevance is not None and placed,
            "What the words point at",
            "Relevance: patches that resemble words of the question.",
            draw_relevance,
        ),
        (
            what.split is not None and what.curves,
            "How the budget is shared",
            "The split that captures most of both at once.",
            _mixture,
        ),
        (not what.stages, "What is kept", kept, draw_kept),
        *_stages(what),
        (
            True,
            "The answer",
            "From all tokens, and from those kept; time until the last word.",
            _answers,
        ),
    ]
    return [(title, caption, body) for applies, title, caption, body in panels if applies]


def _stages(what: Explanation) -> list[tuple[bool, str, str, Body]]:
    """Return a panel for each stage between layers: what it leaves of what came before."""
    panels: list[tuple[bool, str, str, Body]] = []
    before = what.pruned.visual_tokens
    for stage in what.stages:
        left = len(stage.kept)
        readers = "layer 1" if stage.layers == 1 else f"layers 1 to {stage.layers}"
        caption = f"{before - left:,} are dropped, which {readers} still read; {left:,} are left."
        panels.append((True, f"After layer {stage.layers}", caption, _left_by(stage)))
        before = left
    return panels


def _left_by(stage: Stage) -> Body:
    """Return what draws the choice as it stands after a stage."""

    def body(figure: style.PixelFigure, x: float, y: float, what: Explanation) -> None:
        draw_kept(figure, x, y, replace(what, kept=stage.kept))

    return body


def _heading(figure: style.PixelFigure, what: Explanation) -> None:
    """Write the method, its budget and the question over the panels."""
    kept = what.pruned.kept_tokens
    count = what.pruned.visual_tokens
    done = "read by a layer, on average" if what.stages else "kept"
    budget = f"{what.method}   ·   {kept} of {count} visual tokens {done}   ·   {kept / count:.1%}"
    figure.text(style.MARGIN, 50, budget, 17, style.GREY)

    # a question of two lines is written smaller
    room = int((figure.width - 2 * style.MARGIN) / 14.5)
    lines = style.wrapped(what.question, room, 2)
    size = 27 if len(lines) == 1 else 21
    for i, line in enumerate(lines):
        figure.text(
            style.MARGIN, 90 + i * 28 - 10 * (len(lines) - 1), line, size, style.INK, weight="bold"
        )


def _mixture(figure: style.PixelFigure, x: float, y: float, what: Explanation) -> None:
    """Draw what every split of the budget captures, and the one that was chosen."""
    # numbers of the y-axis stand to the left of the axes
    left = x + 46
    width = style.PANEL - 50
    _legend(figure, x, y + 10)
    _curves(figure.axes(left, y + 34, width, style.BODY - 116), what)
    _split_bar(figure, left, y + style.BODY - 76, width, what)


def _legend(figure: style.PixelFigure, x: float, y: float) -> None:
    """Name the curves, one after the other."""
    for name, hue, _ in CURVES:
        figure.bar(x, y, 16, 3, hue)
        x += 22 + figure.text(x + 22, y + 1, name, style.NOTE, style.GREY) + 20


def _curves(axes: Axes, what: Explanation) -> None:
    """Draw P_v, P_t and their geometric mean over k_t, with a mark on the chosen split."""
    assert what.split is not None
    assert what.relevance is not None
    assert what.saliency is not None
    chosen = what.split[0]
    total = sum(what.split)
    k_t, mass_t, mass_v, mean = split_curves(what.relevance, what.saliency, total)
    _lay_out_axes(axes, total, highest=max(mass_t.max(), mass_v.max(), 1e-9))

    # the reserve of each list, where no split lies
    for low, high in ((0, what.reserve), (total - what.reserve, total)):
        axes.axvspan(low, high, color="#f1f2f4", linewidth=0, zorder=0)

    for values, (_, hue, weight) in zip((mass_v, mass_t, mean), CURVES, strict=True):
        axes.plot(k_t, values, color=hue, linewidth=weight, solid_capstyle="round")

    # the chosen split
    best = float(mean[np.searchsorted(k_t, chosen)])
    axes.plot([chosen, chosen], [0, best], color=style.INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.plot(
        [chosen],
        [best],
        "o",
        color=style.INK,
        markersize=8,
        markeredgecolor=style.PAPER,
        markeredgewidth=1.5,
    )


def _lay_out_axes(axes: Axes, total: int, highest: float) -> None:
    """Show every split of `total` from left to right, and shares up to `highest` from below."""
    axes.set_axis_on()
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=style.GREY, length=0, labelsize=style.NOTE * 72 / style.DPI, pad=6)
    axes.set_xticks([])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set(xlim=(0, total), ylim=(0, 1.1 * highest), axisbelow=True)
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _split_bar(
    figure: style.PixelFigure, x: float, y: float, width: float, what: Explanation
) -> None:
    """Draw the chosen split as a bar of two colours, and say below it how many that makes."""
    assert what.split is not None
    k_t, k_v = what.split
    kept = what.pruned.kept_tokens

    border = width * k_t / (k_t + k_v)
    figure.bar(x, y, border - 1, 10, style.RELEVANCE)
    figure.bar(x + border + 1, y, width - border - 1, 10, style.SALIENCY)
    relevant = f"{k_t} most relevant"
    salient = f"{k_v} most salient"
    figure.text(x, y + 26, relevant, style.NOTE, style.RELEVANCE, weight="bold")
    figure.text(x + width, y + 26, salient, style.NOTE, style.SALIENCY, weight="bold", ha="right")

    overlap = k_t + k_v - kept
    note = f"{overlap} of them on both lists" if overlap else "none on both lists"
    figure.text(x, y + 50, f"{note}, so {kept} in all", style.NOTE, style.GREY)
    if what.reserve:
        reserve = f"grey: reserved for each list ({what.reserve})"
        figure.text(x, y + 68, reserve, style.NOTE, style.GREY)


def _answers(figure: style.PixelFigure, x: float, y: float, what: Explanation) -> None:
    """Write both answers, with tokens and time of each; the pruned one alone without the other."""
    dense = what.dense
    pruned = what.pruned
    longest = max(pruned.total_ms, 1e-9)
    if dense is not None:
        longest = max(longest, dense.total_ms)
        title = "every visual token"
        _answer(figure, x, y, title, dense, longest_ms=longest, color=style.GREY)
        y += 160
    share = pruned.kept_tokens / max(pruned.visual_tokens, 1)
    title = f"{what.method}, {share:.1%} of them"
    _answer(figure, x, y, title, pruned, longest_ms=longest, color=style.INK)
    if dense is None:
        return

    verdict, hue = "✗  another answer", style.WRONG
    if same_answer(dense.answer, pruned.answer):
        verdict, hue = "✓  the same answer", style.RIGHT
    figure.text(x + style.PANEL, y + 12, verdict, style.NOTE, hue, weight="bold", ha="right")


def _answer(
    figure: style.PixelFigure,
    x: float,
    y: float,
    title: str,
    answer: Answer,
    *,
    longest_ms: float,
    color: str,
) -> None:
    """Write one answer, above bars of what it cost: `longest_ms` fills a bar."""
    figure.text(x, y + 12, title, style.NOTE, style.GREY)
    text = " ".join(answer.answer.split()) or "(nothing)"
    # a short answer is written large
    if len(style.wrapped(text, 26, 2)) == 1:
        figure.text(x, y + 44, text, 27, style.INK, weight="bold")
    else:
        for i, part in enumerate(style.wrapped(text, 46, 2)):
            figure.text(x, y + 36 + 20 * i, part, 17, style.INK, weight="bold")

    # how many tokens were read, and how long it took
    share = answer.kept_tokens / max(answer.visual_tokens, 1)
    bars = (
        (f"{answer.kept_tokens:,} tokens", share),
        (f"{answer.total_ms:,.0f} ms", answer.total_ms / longest_ms),
    )
    room = style.PANEL - 130
    for i, (label, portion) in enumerate(bars):
        line = y + 80 + 24 * i
        figure.text(x, line, label, style.NOTE, style.INK)
        figure.bar(x + 130, line - 4, room, 8, "#eef0f2")
        figure.bar(x + 130, line - 4, max(room * portion, 1.5), 8, color)
    if answer.cut:
        figure.text(x, y + 128, "cut at the limit of tokens", style.NOTE, style.GREY)
