"""Draws an `Explanation`: panels from the image to the answer."""

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from adafv.models.ask import Answer
from adafv.utils.checks import checked
from adafv.viz.collect import Explanation, split_curves
from adafv.viz.figure import (
    BODY,
    BOTTOM,
    DPI,
    FAINT,
    GAP,
    GREY,
    HEAD,
    INK,
    MARGIN,
    PANEL,
    PAPER,
    PLAIN,
    RELEVANCE,
    ROW,
    SALIENCY,
    TOP,
    PixelFigure,
    wrapped,
)
from adafv.viz.maps import draw_image, draw_kept, draw_relevance, draw_saliency

__all__ = ["draw"]

FACTS = 160

Body = Callable[[PixelFigure, float, float, Explanation], None]


@checked
def draw(what: Explanation) -> Figure:
    """The page: six panels where a method mixes two signals, fewer where there is less to show."""
    panels = _panels(what)
    columns = 2 if len(panels) == 4 else 3
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [HEAD + _height(row, what) for row in rows]
    sheet = PixelFigure(
        2 * MARGIN + columns * PANEL + (columns - 1) * GAP,
        TOP + sum(heights) + (len(rows) - 1) * ROW + BOTTOM,
    )
    _heading(sheet, what)
    for r, row in enumerate(rows):
        for c, (title, caption, body) in enumerate(row):
            x, y = MARGIN + c * (PANEL + GAP), TOP + sum(heights[:r]) + r * ROW
            sheet.text(x, y + 12, str(r * columns + c + 1), 17, GREY)
            sheet.text(x + 22, y + 12, title, 17, INK, weight="bold")
            sheet.text(x, y + 40, caption, 13, GREY)
            body(sheet, x, y + HEAD, what)
    return sheet.finished()


def _height(row: list[tuple[str, str, Body]], what: Explanation) -> int:
    """A row that holds no more than a wide image and its numbers needn't be as high as the
    others.
    """
    if any(body not in (draw_image, draw_saliency) for _, _, body in row):
        return BODY
    return max(FACTS, round(BODY * what.image.height / max(what.image.size)))


def _panels(what: Explanation) -> list[tuple[str, str, Body]]:
    kept = "Framed patches reach the language model, the rest is dropped."
    if what.merged:
        kept = "Every patch is averaged into the frame nearest to it."
    elif len(what.kept) == what.pruned.visual_tokens:
        kept = "Everything: the language model reads every patch."
    panels: list[tuple[bool, str, str, Body]] = [
        (True, "The image", "What is asked about.", draw_image),
        (
            what.saliency is not None,
            "What stands out",
            "Saliency: where the vision tower looks, whatever the question.",
            draw_saliency,
        ),
        (
            what.relevance is not None,
            "What the words point at",
            "Relevance: patches that resemble words of the question.",
            draw_relevance,
        ),
        (
            what.split is not None,
            "How the budget is shared",
            "The split that captures most of both at once.",
            _mixture,
        ),
        (True, "What is kept", kept, draw_kept),
        (
            True,
            "The answer",
            "From all tokens, and from those kept; time until the last word.",
            _answers,
        ),
    ]
    return [(title, caption, body) for applies, title, caption, body in panels if applies]


def _heading(sheet: PixelFigure, what: Explanation) -> None:
    kept, count = what.pruned.kept_tokens, what.pruned.visual_tokens
    budget = f"{what.method}   ·   {kept} of {count} visual tokens kept   ·   {kept / count:.1%}"
    sheet.text(MARGIN, 50, budget, 14, GREY)
    room = int((sheet.width - 2 * MARGIN) / 14.5)
    lines = wrapped(what.question, room, 2)
    size = 27 if len(lines) == 1 else 21
    for i, line in enumerate(lines):
        sheet.text(MARGIN, 90 + i * 28 - 10 * (len(lines) - 1), line, size, INK, weight="bold")


def _mixture(sheet: PixelFigure, x: float, y: float, what: Explanation) -> None:
    assert what.split is not None
    assert what.relevance is not None
    assert what.saliency is not None
    chosen, total = what.split[0], sum(what.split)
    k_t, mass_t, mass_v, mean = split_curves(what.relevance, what.saliency, total)
    best, left, width = float(mean[np.searchsorted(k_t, chosen)]), x + 46, PANEL - 50
    place = x
    for name, hue in (
        ("saliency captured", SALIENCY),
        ("relevance captured", RELEVANCE),
        ("both: geometric mean", INK),
    ):
        sheet.bar(place, y + 10, 16, 3, hue)
        place += 22 + sheet.text(place + 22, y + 11, name, 12, GREY) + 20

    axes = sheet.axes(left, y + 34, width, BODY - 116)
    axes.set_axis_on()
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=GREY, length=0, labelsize=12 * 72 / DPI, pad=6)
    axes.set_xticks([])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set(xlim=(0, total), ylim=(0, 1.1 * max(mass_t.max(), mass_v.max(), 1e-9)), axisbelow=True)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for low, high in ((0, what.reserve), (total - what.reserve, total)):
        axes.axvspan(low, high, color="#f1f2f4", linewidth=0, zorder=0)
    for values, hue, weight in (
        (mass_v, SALIENCY, 1.6),
        (mass_t, RELEVANCE, 1.6),
        (mean, INK, 2.4),
    ):
        axes.plot(k_t, values, color=hue, linewidth=weight, solid_capstyle="round")
    axes.plot([chosen, chosen], [0, best], color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.plot(
        [chosen], [best], "o", color=INK, markersize=8, markeredgecolor=PAPER, markeredgewidth=1.5
    )

    border, foot = width * chosen / total, y + BODY - 76
    sheet.bar(left, foot, border - 1, 10, RELEVANCE)
    sheet.bar(left + border + 1, foot, width - border - 1, 10, SALIENCY)
    sheet.text(left, foot + 26, f"{chosen} most relevant", 14, RELEVANCE, weight="bold")
    sheet.text(
        left + width,
        foot + 26,
        f"{total - chosen} most salient",
        14,
        SALIENCY,
        weight="bold",
        ha="right",
    )
    overlap = total - what.pruned.kept_tokens
    note = f"{overlap} of them on both lists" if overlap else "none on both lists"
    sheet.text(left, foot + 50, f"{note}, so {what.pruned.kept_tokens} in all", 12, GREY)
    if what.reserve:
        sheet.text(left, foot + 68, f"grey: reserved for each list ({what.reserve})", 12, GREY)


def _answers(sheet: PixelFigure, x: float, y: float, what: Explanation) -> None:
    longest = max(what.dense.total_ms, what.pruned.total_ms, 1e-9)
    share = what.pruned.kept_tokens / max(what.dense.kept_tokens, 1)
    _answer(sheet, x, y, "every visual token", what.dense, 1.0, what.dense.total_ms / longest, GREY)
    y += 160
    _answer(
        sheet,
        x,
        y,
        f"{what.method}, {share:.1%} of them",
        what.pruned,
        share,
        what.pruned.total_ms / longest,
        PLAIN,
    )
    same = what.dense.answer.lower() == what.pruned.answer.lower()
    verdict, hue = ("✓  the same answer", PLAIN) if same else ("✗  another answer", RELEVANCE)
    sheet.text(x + PANEL, y + 12, verdict, 13, hue, weight="bold", ha="right")


def _answer(
    sheet: PixelFigure,
    x: float,
    y: float,
    title: str,
    answer: Answer,
    tokens: float,
    duration: float,
    color: str,
) -> None:
    sheet.text(x, y + 12, title, 13, GREY)
    text = " ".join(answer.answer.split()) or "(nothing)"
    if answer.cut:
        sheet.text(x + PANEL, y + 62, "cut at the limit of tokens", 12, GREY, ha="right")
    if len(wrapped(text, 26, 2)) == 1:
        sheet.text(x, y + 44, text, 25, INK, weight="bold")
    else:
        for i, part in enumerate(wrapped(text, 46, 2)):
            sheet.text(x, y + 36 + 20 * i, part, 15, INK, weight="bold")
    bars = ((f"{answer.kept_tokens:,} tokens", tokens), (f"{answer.total_ms:,.0f} ms", duration))
    for i, (label, portion) in enumerate(bars):
        line, room = y + 80 + 24 * i, PANEL - 110
        sheet.text(x, line, label, 13, INK)
        sheet.bar(x + 110, line - 4, room, 8, "#eef0f2")
        sheet.bar(x + 110, line - 4, max(room * portion, 1.5), 8, color)
