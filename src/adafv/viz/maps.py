"""Draw the panels that lie over the image: saliency, relevance, and what is kept."""

from collections.abc import Callable, Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from adafv.utils.checks import checked
from adafv.viz.explained_answer import Explanation
from adafv.viz.figure import (
    BODY,
    BOTH,
    DPI,
    FAINT,
    GREY,
    INK,
    NOTE,
    PAPER,
    PLAIN,
    RELEVANCE,
    SALIENCY,
    SIDE,
    PixelFigure,
    wrapped,
)
from adafv.viz.grids import Scale, ranges, shade
from adafv.viz.palette import token_colors

__all__ = ["draw_image", "draw_kept", "draw_relevance", "draw_saliency"]

SHARP = 2  # pixels of an image for each of the page's
LEAST_SHARE = 0.005  # of a word that is named
WORDS = 5  # that are named
LISTED_COLUMNS = 40  # of a list of tokens
LISTED_LINES = 16

# left, top, right, bottom of a grid, in pixels of its panel
Box = tuple[float, float, float, float]
# what paints one grid: on which axes, of what scale, where, in a panel of what width and height
Paint = Callable[[Axes, Scale, Box, float, float], None]


@checked
def draw_image(figure: PixelFigure, x: float, y: float, what: Explanation) -> None:
    """Draw the image, and say how many visual tokens it makes."""
    width, height = _fit(what.image.size)
    axes = figure.axes(x, y, width, height)
    axes.imshow(_canvas(what.image, width, height), extent=(0, width, height, 0), aspect="auto")

    # what the model does not see is pale
    box = _scaled(what.view, what, width, height)
    left, top, right, bottom = _within(box, width, height)
    seen = _area((left, top, right, bottom))
    cut = seen < 0.99 * width * height
    padded = seen < 0.99 * _area(box)
    unseen: tuple[Box, ...] = (
        (0, 0, left, height),
        (right, 0, width, height),
        (0, 0, width, top),
        (0, bottom, width, height),
    )
    for x0, y0, x1, y1 in unseen:
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=PAPER, alpha=0.75, linewidth=0)
        )

    # numbers beside it
    side = x + BODY + 20
    figure.text(side, y + 12, f"{what.pruned.visual_tokens:,}", 24, INK, weight="bold")
    figure.text(side, y + 40, "visual tokens", NOTE, GREY)
    if len(what.scales) > 1:  # a thumbnail and its tiles
        line = y + 76
        names = ("at full resolution", "in the thumbnail")
        for scale, name in zip(what.scales, names, strict=True):
            figure.text(side, line, f"{len(scale.index):,}", 18, INK)
            figure.text(side, line + 22, name, NOTE, GREY)
            line += 54
    if cut or padded:  # a single crop: there is room where the tiles' numbers would be
        figure.text(side, y + 72, "The model sees", NOTE, GREY)
        how = "the middle only." if cut else "padding, too."
        figure.text(side, y + 94, how, NOTE, GREY)


@checked
def draw_saliency(figure: PixelFigure, x: float, y: float, what: Explanation) -> None:
    """Draw where the vision tower looks."""
    assert what.saliency is not None
    _heat(figure, x, y, what, what.saliency, SALIENCY)


@checked
def draw_relevance(figure: PixelFigure, x: float, y: float, what: Explanation) -> None:
    """Draw where the words point, and which of them own how much of the kept relevance."""
    assert what.relevance is not None
    below = _heat(figure, x, y, what, what.relevance, RELEVANCE)

    # the words that own most of it, the first five
    named = [word for word in what.words if word.share >= LEAST_SHARE]
    named.sort(key=lambda word: -word.share)

    side = x + BODY + 20
    start = below + 18
    figure.text(side, start, "relevance by word", NOTE, GREY)
    for i, word in enumerate(named[:WORDS]):
        line = start + 26 + i * 34
        # longer words don't fit beside the image
        name = word.text if len(word.text) <= 8 else word.text[:7] + "…"
        figure.text(side, line, name, NOTE, INK)
        figure.text(side + SIDE, line, f"{word.share:.0%}", NOTE, GREY, ha="right")
        figure.bar(side, line + 11, SIDE, 4, FAINT)
        figure.bar(side, line + 11, SIDE * word.share, 4, RELEVANCE)


def _heat(
    figure: PixelFigure, x: float, y: float, what: Explanation, values: NDArray, color: str
) -> float:
    """Draw maps of a score over the image; return where the room beside the large one begins."""

    def paint(axes: Axes, scale: Scale, box: Box, width: float, height: float) -> None:
        _ground(axes, what, width, height)
        layer = np.empty((*scale.shape, 4))  # (rows, columns, RGBA)
        layer[..., :3] = to_rgb(color)
        layer[..., 3] = 0.92 * shade(scale, values)  # the image shows through the peaks, too
        axes.imshow(
            layer, extent=(box[0], box[2], box[3], box[1]), aspect="auto", interpolation="nearest"
        )

    return _each_scale(figure, x, y, what, paint)


@checked
def draw_kept(figure: PixelFigure, x: float, y: float, what: Explanation) -> None:
    """Draw the kept patches bright, in a frame of the colour of who chose them; the rest pale.

    Where tokens lie nowhere that is known, list them.
    """
    color = token_colors(*what.chosen_by())  # (K,)
    colors = dict(zip(what.kept.tolist(), color, strict=True))
    padding: list[int] = []  # kept tokens that show nothing of the image

    def paint(axes: Axes, scale: Scale, box: Box, width: float, height: float) -> None:
        _ground(axes, what, width, height)
        cells: list[tuple[Box, str]] = []
        for i, cell in _cells(scale, box):
            on_image = _within(cell, width, height)
            if i in colors and _area(on_image):
                cells.append((on_image, colors[i]))
            elif i in colors:
                padding.append(i)
        axes.imshow(
            _lit(_canvas(what.image, width, height), cells),
            extent=(0, width, height, 0),
            aspect="auto",
        )
        # where everything is kept frames say nothing
        if len(colors) < what.pruned.visual_tokens:
            axes.add_collection(_frames(cells, min(_cell_size(scale, box))))

    below = _each_scale(figure, x, y, what, paint) if what.scales else _listed(figure, x, y, what)
    _counts(figure, x + BODY + 20, below + 20, color, len(padding))


def _cells(scale: Scale, box: Box) -> Iterator[tuple[int, Box]]:
    """Yield the index of each token of a grid, and its cell in the box that the grid fills."""
    across, down = _cell_size(scale, box)
    for i, (row, column) in zip(scale.index.tolist(), scale.coordinates.tolist(), strict=True):
        left = box[0] + column * across
        top = box[1] + row * down
        yield i, (left, top, left + across, top + down)


def _cell_size(scale: Scale, box: Box) -> tuple[float, float]:
    """Return width and height of a cell of a grid."""
    rows, columns = scale.shape
    return (box[2] - box[0]) / columns, (box[3] - box[1]) / rows


def _counts(figure: PixelFigure, x: float, y: float, color: NDArray, padding: int) -> None:
    """Write how many tokens each score speaks for, by their colours (K,)."""
    legend = (
        ("relevance alone", RELEVANCE),
        ("saliency alone", SALIENCY),
        ("both", BOTH),
        ("for other reasons" if (color != PLAIN).any() else "tokens", PLAIN),
    )
    for name, hue in legend:
        if number := int((color == hue).sum()):
            figure.bar(x, y - 9, 4, 41, hue)
            figure.text(x + 14, y, f"{number:,}", 19, INK, weight="bold")
            figure.text(x + 14, y + 22, name, NOTE, GREY)
            y += 58
    if padding:
        figure.text(x, y, f"{padding:,} show padding", NOTE, GREY)


def _listed(figure: PixelFigure, x: float, y: float, what: Explanation) -> float:
    """List the kept tokens; return where the room beside the list begins."""
    lines = wrapped(ranges(what.kept.tolist()), LISTED_COLUMNS, LISTED_LINES)
    for i, line in enumerate(lines):
        figure.text(x, y + 12 + 20 * i, line, 14, INK)
    return y


def _lit(image: Image.Image, kept: list[tuple[Box, str]]) -> NDArray:
    """Make the image transparent but for the kept patches."""
    pixels = np.asarray(image.convert("RGBA")).copy()  # (height, width, RGBA)
    pixels[..., 3] = 0
    for box, _ in kept:
        left, top, right, bottom = (round(edge * SHARP) for edge in box)
        pixels[top:bottom, left:right, 3] = 255
    return pixels


def _frames(kept: list[tuple[Box, str]], side: float) -> PatchCollection:
    """Draw a frame just inside each kept patch, so that neighbours keep their own colours.

    Args:
        side: the shorter one of a patch.
    """
    line = float(np.clip(side / 8, 0.9, 2.6))  # thin on small patches, never a hair
    frames = []
    colors = []
    for (left, top, right, bottom), color in kept:
        width, height = right - left - line, bottom - top - line
        frames.append(Rectangle((left + line / 2, top + line / 2), width, height))
        colors.append(color)
    return PatchCollection(frames, facecolor="none", edgecolor=colors, linewidth=line * 72 / DPI)


def _each_scale(figure: PixelFigure, x: float, y: float, what: Explanation, paint: Paint) -> float:
    """Paint the finest grid large and a thumbnail beside it; return where the room below begins."""
    width, height = _fit(what.image.size)
    paint(
        figure.axes(x, y, width, height),
        what.scales[0],
        _scaled(what.view, what, width, height),
        width,
        height,
    )
    if len(what.scales) == 1:
        return y

    # the same image once more, in the column beside it
    small = SIDE / max(width, height)
    width *= small
    height *= small
    side = x + BODY + 20
    paint(figure.axes(side, y, width, height), what.scales[1], (0, 0, width, height), width, height)
    figure.text(side, y + height + 15, "thumbnail", NOTE, GREY)
    return y + height + 30


def _ground(axes: Axes, what: Explanation, width: float, height: float) -> None:
    """Draw the image pale and grey, to lay colours on."""
    grey = np.asarray(_canvas(what.image, width, height).convert("L"), dtype=float) / 255
    axes.imshow(
        0.78 + 0.2 * grey, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0), aspect="auto"
    )


def _canvas(image: Image.Image, width: float, height: float) -> Image.Image:
    """Resize an image to pixels of the page, `SHARP` for each."""
    size = (max(1, round(width * SHARP)), max(1, round(height * SHARP)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _fit(size: tuple[int, int]) -> tuple[float, float]:
    """Return width and height of an image in its panel; a line of pixels is still seen."""
    scale = BODY / max(size)
    return max(size[0] * scale, 2), max(size[1] * scale, 2)


def _scaled(box: Box, what: Explanation, width: float, height: float) -> Box:
    """Turn pixels of the image into pixels of a panel."""
    across = width / what.image.width
    down = height / what.image.height
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def _within(box: Box, width: float, height: float) -> Box:
    """Return what of a box lies on a panel's image; without area where nothing does."""
    left, right = (min(max(edge, 0.0), width) for edge in (box[0], box[2]))
    top, bottom = (min(max(edge, 0.0), height) for edge in (box[1], box[3]))
    return left, top, right, bottom


def _area(box: Box) -> float:
    """Return the area of a box."""
    return (box[2] - box[0]) * (box[3] - box[1])
