"""The panels that lie over the image: what stands out, what the words point at, what is kept."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from adafv.utils.checks import checked
from adafv.viz.collect import Explanation
from adafv.viz.figure import (
    BODY,
    BOTH,
    DPI,
    FAINT,
    GREY,
    INK,
    PAPER,
    PLAIN,
    RELEVANCE,
    SALIENCY,
    SIDE,
    PixelFigure,
)
from adafv.viz.regions import Scale, shade

__all__ = ["draw_image", "draw_kept", "draw_relevance", "draw_saliency"]

SHARP = 2
"""Pixels of an image for each of the page's."""

Box = tuple[float, float, float, float]
Paint = Callable[[Axes, Scale, Box, float, float], None]


@checked
def draw_image(sheet: PixelFigure, x: float, y: float, what: Explanation) -> None:
    """The image, and how many visual tokens it makes."""
    width, height = _fit(what.image.size)
    axes = sheet.axes(x, y, width, height)
    axes.imshow(_canvas(what.image, width, height), extent=(0, width, height, 0), aspect="auto")
    left, top, right, bottom = _scaled(what.view, what, width, height)
    cut = (right - left) * (bottom - top) < 0.99 * width * height
    for x0, y0, x1, y1 in (
        (0, 0, left, height),
        (right, 0, width, height),
        (0, 0, width, top),
        (0, bottom, width, height),
    ):
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=PAPER, alpha=0.75, linewidth=0)
        )
    side = x + BODY + 20
    sheet.text(side, y + 12, f"{what.pruned.visual_tokens:,}", 24, INK, weight="bold")
    sheet.text(side, y + 38, "visual tokens", 13, GREY)
    if len(what.scales) > 1:
        for i, (scale, name) in enumerate(
            zip(what.scales, ("at full resolution", "in the thumbnail"), strict=True)
        ):
            sheet.text(side, y + 76 + 46 * i, f"{len(scale.index):,}", 15, INK)
            sheet.text(side, y + 95 + 46 * i, name, 12, GREY)
    if cut:
        sheet.text(side, y + 72, "The model sees", 12, GREY)
        sheet.text(side, y + 88, "the middle only.", 12, GREY)


@checked
def draw_saliency(sheet: PixelFigure, x: float, y: float, what: Explanation) -> None:
    """Where the vision tower looks."""
    assert what.saliency is not None
    _heat(sheet, x, y, what, what.saliency, SALIENCY)


@checked
def draw_relevance(sheet: PixelFigure, x: float, y: float, what: Explanation) -> None:
    """Where the words point, and which of them own how much of the relevance that is kept."""
    assert what.relevance is not None
    below = _heat(sheet, x, y, what, what.relevance, RELEVANCE)
    strongest = sorted((w for w in what.words if w.share >= 0.005), key=lambda w: -w.share)[:5]
    side, start = x + BODY + 20, below + 18
    sheet.text(side, start, "words that fired", 12, GREY)
    for i, word in enumerate(strongest):
        line = start + 26 + i * 34
        name = word.text if len(word.text) <= 8 else word.text[:7] + "…"
        sheet.text(side, line, name, 14, INK)
        sheet.text(side + SIDE, line, f"{word.share:.0%}", 12, GREY, ha="right")
        sheet.bar(side, line + 11, SIDE, 4, FAINT)
        sheet.bar(side, line + 11, SIDE * word.share, 4, RELEVANCE)


def _heat(
    sheet: PixelFigure, x: float, y: float, what: Explanation, values: NDArray, color: str
) -> float:
    """Maps of a score over the image; returns where the room beside the large one begins."""

    def paint(axes: Axes, scale: Scale, box: Box, width: float, height: float) -> None:
        _ground(axes, what, width, height)
        layer = np.empty((*scale.shape, 4))
        layer[..., :3], layer[..., 3] = to_rgb(color), 0.92 * shade(scale, values)
        axes.imshow(
            layer, extent=(box[0], box[2], box[3], box[1]), aspect="auto", interpolation="nearest"
        )

    return _each_scale(sheet, x, y, what, paint)


@checked
def draw_kept(sheet: PixelFigure, x: float, y: float, what: Explanation) -> None:
    """The kept patches bright, in a frame of the colour of who chose them; the rest pale."""
    by_relevance, by_saliency = what.chosen_by()
    color = np.full(len(by_relevance), PLAIN, dtype=object)
    color[by_relevance], color[by_saliency], color[by_relevance & by_saliency] = (
        RELEVANCE,
        SALIENCY,
        BOTH,
    )
    colors = dict(zip(what.kept.tolist(), color, strict=True))

    def paint(axes: Axes, scale: Scale, box: Box, width: float, height: float) -> None:
        _ground(axes, what, width, height)
        cell = (box[2] - box[0]) / scale.shape[1], (box[3] - box[1]) / scale.shape[0]
        places = zip(scale.index.tolist(), scale.coordinates.tolist(), strict=True)
        kept = [
            (box[0] + c * cell[0], box[1] + r * cell[1], colors[i])
            for i, (r, c) in places
            if i in colors
        ]
        axes.imshow(
            _lit(_canvas(what.image, width, height), kept, cell),
            extent=(0, width, height, 0),
            aspect="auto",
        )
        if len(colors) < what.pruned.visual_tokens:
            axes.add_collection(_frames(kept, cell))

    below = _each_scale(sheet, x, y, what, paint)
    side, line = x + BODY + 20, below + 20
    for name, hue in (
        ("by relevance", RELEVANCE),
        ("by saliency", SALIENCY),
        ("by both", BOTH),
        ("tokens", PLAIN),
    ):
        if number := int((color == hue).sum()):
            sheet.bar(side, line - 8, 4, 36, hue)
            sheet.text(side + 14, line, f"{number:,}", 17, INK, weight="bold")
            sheet.text(side + 14, line + 20, name, 12, GREY)
            line += 54


def _lit(
    image: Image.Image, kept: list[tuple[float, float, str]], cell: tuple[float, float]
) -> NDArray:
    """The image, transparent but for the kept patches."""
    pixels = np.asarray(image.convert("RGBA")).copy()
    pixels[..., 3] = 0
    for left, top, _ in kept:
        rows, columns = (
            slice(round(start * SHARP), round((start + size) * SHARP))
            for start, size in zip((top, left), cell[::-1], strict=True)
        )
        pixels[rows, columns, 3] = 255
    return pixels


def _frames(kept: list[tuple[float, float, str]], cell: tuple[float, float]) -> PatchCollection:
    """A frame just inside each kept patch, so that neighbours keep their own colours."""
    line = float(np.clip(min(cell) / 8, 0.9, 2.6))
    frames = [
        Rectangle((x + line / 2, y + line / 2), cell[0] - line, cell[1] - line) for x, y, _ in kept
    ]
    colors = [color for *_, color in kept]
    return PatchCollection(frames, facecolor="none", edgecolor=colors, linewidth=line * 72 / DPI)


def _each_scale(sheet: PixelFigure, x: float, y: float, what: Explanation, paint: Paint) -> float:
    """Paint the finest grid large and a thumbnail beside it; returns where the room below that
    begins.
    """
    width, height = _fit(what.image.size)
    paint(
        sheet.axes(x, y, width, height),
        what.scales[0],
        _scaled(what.view, what, width, height),
        width,
        height,
    )
    if len(what.scales) == 1:
        return y
    small = SIDE / max(width, height)
    width, height = width * small, height * small
    side = x + BODY + 20
    paint(sheet.axes(side, y, width, height), what.scales[1], (0, 0, width, height), width, height)
    sheet.text(side, y + height + 13, "thumbnail", 12, GREY)
    return y + height + 26


def _ground(axes: Axes, what: Explanation, width: float, height: float) -> None:
    """The image, pale and grey, to lay colours on."""
    grey = np.asarray(_canvas(what.image, width, height).convert("L"), dtype=float) / 255
    axes.imshow(
        0.78 + 0.2 * grey, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0), aspect="auto"
    )


def _canvas(image: Image.Image, width: float, height: float) -> Image.Image:
    return image.resize(
        (max(1, round(width * SHARP)), max(1, round(height * SHARP))), Image.Resampling.LANCZOS
    )


def _fit(size: tuple[int, int]) -> tuple[float, float]:
    scale = BODY / max(size)
    return max(size[0] * scale, 2), max(size[1] * scale, 2)


def _scaled(box: Box, what: Explanation, width: float, height: float) -> Box:
    across, down = width / what.image.width, height / what.image.height
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down
