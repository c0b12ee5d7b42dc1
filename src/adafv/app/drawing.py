"""Draw the image and what lies over it, as SVG: strings, nothing of Gradio."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from adafv.utils.checks import checked
from adafv.viz import Explanation, Scale, shade
from adafv.viz.palette import BOTH, PLAIN, RELEVANCE, SALIENCY, token_colors

__all__ = ["Box", "data_url", "figure", "frame_colors", "ground", "heat", "image", "kept"]

IMAGE_ID = "adafv-image"
FILL = f"url(#{IMAGE_ID}-fill)"
SIDE = 768
"""Pixels along the longer side of the image as it is sent."""
NOMINAL = 320
"""Pixels that a card shows of it, about: lines are as thick as suits that size."""

Array = NDArray[Any]
Box = tuple[float, float, float, float]


@checked
def image(image: Image.Image) -> str:
    """Return the image, to which the cards refer, so that another budget doesn't send it again."""
    # no larger than a page shows it
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    width, height = image.size
    # a pattern of the image fills the kept patches, wherever they lie
    return (
        '<svg class="store" width="0" height="0" aria-hidden="true"><defs>'
        f'<image id="{IMAGE_ID}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none" href="{data_url(small, "webp", quality=90)}"/>'
        f'<pattern id="{IMAGE_ID}-fill" patternUnits="userSpaceOnUse" '
        f'width="{width}" height="{height}">'
        f'<use href="#{IMAGE_ID}"/></pattern></defs></svg>'
    )


@checked
def kept(explanation: Explanation, scale: Scale, box: Box) -> list[str]:
    """Draw kept patches bright, framed in the colour of who chose them, and the rest pale.

    What a stage between layers leaves and a later one drops is half as pale.
    """
    if _whole(explanation):
        return [ground()]

    # size of a patch, and thickness of its frame, in pixels of the image
    width = (box[2] - box[0]) / scale.shape[1]
    height = (box[3] - box[1]) / scale.shape[0]
    unit = max(explanation.image.size) / NOMINAL
    line = float(np.clip(min(width, height) / unit / 8, 0.9, 2.6)) * unit
    # row and column of the tokens at this scale
    coordinates = dict(zip(scale.index.tolist(), scale.coordinates.tolist(), strict=True))

    def path(tokens: Sequence[int], inset: float = 0.0) -> str:
        """Return one path of rectangles, which is quicker than an element for each."""
        w = width - 2 * inset
        h = height - 2 * inset
        rectangles = []
        for token in tokens:
            row, column = coordinates[token]
            x = box[0] + column * width + inset
            y = box[1] + row * height + inset
            rectangles.append(f"M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h{-w:.1f}z")
        return "".join(rectangles)

    def here(tokens: Array) -> list[int]:
        """Return the tokens that lie on this grid."""
        return [token for token in tokens.tolist() if token in coordinates]

    layers = [ground(pale=True)]
    for stage in explanation.stages[:-1]:
        layers.append(f'<path class="passed" fill="{FILL}" d="{path(here(stage.kept))}"/>')
    layers.append(f'<path fill="{FILL}" d="{path(here(explanation.kept))}"/>')
    for color, members in _tokens_by_color(explanation).items():
        tokens = [token for token in here(explanation.kept) if token in members]
        if tokens:
            layers.append(
                f'<path fill="none" stroke="{color}" stroke-width="{line:.2f}" '
                f'd="{path(tokens, line / 2)}"/>'
            )
    return layers


@checked
def frame_colors(explanation: Explanation) -> set[str]:
    """Return the colours of the frames that `kept` draws, over all scales of an image."""
    if _whole(explanation):
        return set()
    placed: set[int] = set().union(*(scale.index.tolist() for scale in explanation.scales))
    by_color = _tokens_by_color(explanation)
    return {color for color, tokens in by_color.items() if tokens & placed}


def _whole(explanation: Explanation) -> bool:
    """Say whether every token is kept."""
    return len(explanation.kept) == explanation.pruned.visual_tokens


def _tokens_by_color(explanation: Explanation) -> dict[str, set[int]]:
    """Return kept tokens by the colour of the score that speaks for them."""
    colors = token_colors(*explanation.chosen_by())  # (K,)
    found: dict[str, set[int]] = {}
    for color in (RELEVANCE, SALIENCY, BOTH, PLAIN):
        found[color] = set(explanation.kept[colors == color].tolist())
    return found


@checked
def heat(scale: Scale, box: Box, values: Array, color: str) -> list[str]:
    """Draw values (N,) as a map over the pale image, one pixel a patch."""
    pixels = np.empty((*scale.shape, 4))  # (rows, columns, RGBA)
    pixels[..., :3] = to_rgb(color)
    pixels[..., 3] = 0.92 * shade(scale, values)
    href = data_url(Image.fromarray(np.round(pixels * 255).astype(np.uint8)), "png")
    drawn = (
        f'<image class="heat" x="{box[0]}" y="{box[1]}" '
        f'width="{box[2] - box[0]}" height="{box[3] - box[1]}" '
        f'preserveAspectRatio="none" href="{href}"/>'
    )
    return [ground(pale=True), drawn]


@checked
def figure(size: tuple[int, int], layers: Sequence[str], label: str, small: bool = False) -> str:
    """Return layers as one figure, in pixels of the image."""
    classes = "view small-view" if small else "view"
    return (
        f'<svg class="{classes}" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        f'aria-label="{escape(label)}">{"".join(layers)}</svg>'
    )


@checked
def ground(pale: bool = False) -> str:
    """Return the image itself as a layer."""
    return f'<use href="#{IMAGE_ID}" class="{"pale" if pale else "bright"}"/>'


@checked
def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """Return an image as a data URL."""
    # in memory: nothing of a visitor is written to disk
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"
