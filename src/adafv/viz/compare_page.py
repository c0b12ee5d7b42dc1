"""Draw several explanations of one question: the image and the question, then the methods."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from adafv.data.judging import same_answer
from adafv.utils.checks import checked
from adafv.viz import figure as style
from adafv.viz.explained_answer import Explanation
from adafv.viz.maps import draw_image, draw_kept

__all__ = ["draw"]

COLUMNS = 3


@checked
def draw(whats: Sequence[Explanation], truth: str | None) -> Figure:
    """Draw the page of `adafv.viz.compare.side_by_side`."""
    first = whats[0]
    dense = None if first.dense is None else first.dense.answer
    right = truth or dense

    # below the image and what is asked of it, a panel for each method
    rows = -(-len(whats) // COLUMNS)
    columns = min(max(len(whats), 2), COLUMNS)
    top = style.MARGIN + style.BODY + style.ROW
    row_height = style.HEAD + style.BODY + style.ROW
    figure = style.PixelFigure(
        2 * style.MARGIN + columns * style.PANEL + (columns - 1) * style.GAP,
        top + rows * row_height + style.BOTTOM,
    )

    draw_image(figure, style.MARGIN, style.MARGIN, first)
    _asked(figure, first, truth, right)
    for i, what in enumerate(whats):
        row, column = divmod(i, COLUMNS)
        x = style.MARGIN + column * (style.PANEL + style.GAP)
        _method(figure, x, top + row * row_height, what, right)
    return figure.finished()


def _asked(
    figure: style.PixelFigure, what: Explanation, truth: str | None, right: str | None
) -> None:
    """Write beside the image the question, the dense model's answer, and the truth if known."""
    x = style.MARGIN + style.PANEL + style.GAP
    y = style.MARGIN
    room = figure.width - style.MARGIN - x
    panels = (room + style.GAP) // (style.PANEL + style.GAP)
    for i, line in enumerate(style.wrapped(what.question, 25 * panels, 3)):
        figure.text(x, y + 24 + 36 * i, line, 27, style.INK, room, weight="bold")
    if what.dense is not None:
        figure.text(x, y + 160, "from all tokens", 17, style.GREY)
        _answer(figure, x, y + 192, what.dense.answer, right, room)
    if truth is not None:
        figure.text(x, y + 250, "the truth", 17, style.GREY)
        figure.text(x, y + 282, style.wrapped(truth, 80, 1)[0], 22, style.INK, room)


def _method(
    figure: style.PixelFigure, x: float, y: float, what: Explanation, right: str | None
) -> None:
    """Draw what a method keeps, below its name, its answer and its budget."""
    figure.text(x, y + 6, what.method, 22, style.INK, style.PANEL, weight="bold")
    budget = f"{what.pruned.kept_tokens:,} of {what.pruned.visual_tokens:,}"
    width = figure.text(x + style.PANEL, y + 40, budget, 17, style.GREY, ha="right")
    _answer(figure, x, y + 40, what.pruned.answer, right, style.PANEL - width - 20)
    draw_kept(figure, x, y + style.HEAD, what)


def _answer(
    figure: style.PixelFigure, x: float, y: float, text: str, right: str | None, room: float
) -> None:
    """Write an answer, marked as right or wrong where the right one is known."""
    mark, color = "", style.INK
    if right is not None:
        mark, color = "✗  ", style.WRONG
        if same_answer(text, right):
            mark, color = "✓  ", style.RIGHT
    shown = style.wrapped(text, 80, 1)[0] or "(nothing)"
    figure.text(x, y, f"{mark}{shown}", 22, color, room)
