"""Draw what the page shows of a question, as HTML and SVG: strings, nothing of Gradio."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from adafv.app.view import DENSE, Result, View
from adafv.methods import METHODS
from adafv.models.ask import Answer
from adafv.utils.checks import checked
from adafv.viz import Explanation, Scale, shade
from adafv.viz.figure import BOTH, PLAIN, RELEVANCE, SALIENCY

__all__ = ["LAYERS", "cards", "heading", "image", "notice", "waiting"]

# Layers over the image.
KEPT = "kept"
SALIENT = "saliency"
RELEVANT = "relevance"
BARE = "image"
LAYERS = {
    "what is kept": KEPT,
    "what stands out": SALIENT,
    "what the words point at": RELEVANT,
    "the image alone": BARE,
}
"""What can be drawn over the image, by its name on the page."""

IMAGE_ID = "adafv-image"
SIDE = 768
"""Pixels along the longer side of the image as it is sent."""
NOMINAL = 320
"""Pixels that a card shows of it, about: lines are as thick as suits that size."""

Array = NDArray[Any]
Box = tuple[float, float, float, float]


@checked
def heading(model: str, device: str) -> str:
    """Return the page's heading."""
    return (
        '<header class="top"><h1>adafv</h1>'
        "<p>One question, answered from every visual token and from a few of them.</p>"
        f"<p>{escape(model)} on {escape(device)}</p></header>"
    )


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
        f'preserveAspectRatio="none" href="{_data(small, "webp", quality=90)}"/>'
        f'<pattern id="{IMAGE_ID}-fill" patternUnits="userSpaceOnUse" '
        f'width="{width}" height="{height}">'
        f'<use href="#{IMAGE_ID}"/></pattern></defs></svg>'
    )


@checked
def notice(sentence: str) -> str:
    """Return a sentence on what is wrong, or nothing."""
    return f'<p class="notice" role="alert">{escape(sentence)}</p>' if sentence else ""


@checked
def waiting(image: Image.Image) -> str:
    """Return an image that nothing has been asked about yet."""
    # without a question there is nothing to draw over it
    figure = _figure(image.size, [_ground()], "the image")
    hint = '<p class="answer">Ask something about it.</p>'
    return f'<div class="cards"><article class="card">{figure}{hint}</article></div>'


@checked
def cards(view: View, layer: str) -> str:
    """Return a card for the dense answer and for that of each method, under the image.

    Args:
        layer: what is drawn over the image, a value of `LAYERS`.
    """
    # bars of time are in proportion to the longest
    dense = view.results[0].answer
    times = [result.answer.total_ms for result in view.results if result.answer is not None]
    longest = max(times, default=1.0)
    drawn = "".join(_card(view, result, layer, dense, longest) for result in view.results)
    return (
        f'<div class="cards">{drawn}</div>'
        f'<p class="small">The image was encoded once, in {view.vision_ms:,.0f} ms; '
        "every question, method and budget uses that again. "
        "ms: choosing the tokens and the language model, up to the last word.</p>"
    )


def _card(view: View, result: Result, layer: str, dense: Answer | None, longest: float) -> str:
    """Return a method's card: name, image, answer, bars, notes."""
    # the dense card has neither split nor comparison
    plain = result.method == DENSE
    name = "every token" if plain else result.method
    parts = [
        f'<h3 title="{escape(_summary(result.method))}">{escape(name)}</h3>',
        _drawing(view, result, layer),
    ]
    if result.answer is not None:
        # the dense answer is not compared with itself
        parts.append(_answer(result.answer, None if plain else dense))
        parts.append(_bars(result.answer, longest))
        if result.answer.cut:
            parts.append(
                '<p class="small">The answer was cut: '
                "a larger --max-new-tokens lets it continue.</p>"
            )
    if result.note:
        parts.append(f'<p class="small">{escape(result.note)}</p>')
    if result.explanation is not None and not plain:
        parts.append(_split(result.explanation))
        parts.append(_words(result.explanation))
        parts.append(_others(result, view.before))
    return f'<article class="card{" dense" if plain else ""}">{"".join(parts)}</article>'


def _drawing(view: View, result: Result, layer: str) -> str:
    """Return the image with a layer over it, once for each scale that the tower has of it."""
    size = view.image.size
    explanation = result.explanation
    if explanation is None or layer == BARE:
        return _figure(size, [_ground()], "the image")

    # what the method looked at; else what there is to look at
    own = {SALIENT: explanation.saliency, RELEVANT: explanation.relevance}.get(layer)
    caption = _caption(result.method, explanation, layer, own is not None)
    values = own
    if values is None:
        values = view.saliency if layer == SALIENT else view.relevance

    # the crops together, and then the thumbnail, smaller
    boxes: list[Box] = [explanation.view, (0.0, 0.0, float(size[0]), float(size[1]))]
    figures: list[str] = []
    for scale, box in zip(explanation.scales, boxes, strict=False):
        if layer == KEPT:
            layers = _kept(explanation, scale, box)
        else:
            layers = _heat(scale, box, values, layer)
        figures.append(_figure(size, layers, caption, small=bool(figures)))
    return f'{"".join(figures)}<p class="small caption">{escape(caption)}</p>'


def _caption(name: str, explanation: Explanation, layer: str, own: bool) -> str:
    """Say what a layer shows; `own`: the method looks at it."""
    if layer == KEPT:
        kept = len(explanation.kept)
        count = explanation.pruned.visual_tokens
        if kept == count:
            return f"All {count:,} tokens."
        merged = ", each an average of those near it" if explanation.merged else ""
        return f"{kept:,} of {count:,} tokens{merged}."
    shown = "What resembles the words of the question"
    if layer == SALIENT:
        shown = "Where the vision tower looks"
    if own or name == DENSE:
        return f"{shown}."
    return f"{shown}; {name} does not look at it."


def _kept(explanation: Explanation, scale: Scale, box: Box) -> list[str]:
    """Draw kept patches bright, framed in the colour of who chose them, and the rest pale."""
    if len(explanation.kept) == explanation.pruned.visual_tokens:
        return [_ground()]

    # size of a patch, and thickness of its frame, in pixels of the image
    width = (box[2] - box[0]) / scale.shape[1]
    height = (box[3] - box[1]) / scale.shape[0]
    unit = max(explanation.image.size) / NOMINAL
    line = float(np.clip(min(width, height) / unit / 8, 0.9, 2.6)) * unit
    # row and column of the tokens at this scale
    coordinates = dict(zip(scale.index.tolist(), scale.coordinates.tolist(), strict=True))

    def path(tokens: Sequence[int], inset: float) -> str:
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

    here = [token for token in explanation.kept.tolist() if token in coordinates]
    layers = [_ground(pale=True)]
    layers.append(f'<path fill="url(#{IMAGE_ID}-fill)" d="{path(here, 0)}"/>')
    for color, members in _chosen_by(explanation).items():
        tokens = [token for token in here if token in members]
        if tokens:
            layers.append(
                f'<path fill="none" stroke="{color}" stroke-width="{line:.2f}" '
                f'd="{path(tokens, line / 2)}"/>'
            )
    return layers


def _chosen_by(explanation: Explanation) -> dict[str, set[int]]:
    """Return kept tokens by the colour of the list that they are on."""
    by_relevance, by_saliency = explanation.chosen_by()  # (K,) each
    # both lists, one of them, or, for methods without lists, neither
    lists = {
        RELEVANCE: by_relevance & ~by_saliency,
        SALIENCY: by_saliency & ~by_relevance,
        BOTH: by_relevance & by_saliency,
        PLAIN: ~(by_relevance | by_saliency),
    }
    return {color: set(explanation.kept[member].tolist()) for color, member in lists.items()}


def _heat(scale: Scale, box: Box, values: Array, layer: str) -> list[str]:
    """Draw values (N,) as a map over the pale image, one pixel a patch."""
    pixels = np.empty((*scale.shape, 4))  # (rows, columns, RGBA)
    pixels[..., :3] = to_rgb(SALIENCY if layer == SALIENT else RELEVANCE)
    pixels[..., 3] = 0.92 * shade(scale, values)
    href = _data(Image.fromarray(np.round(pixels * 255).astype(np.uint8)), "png")
    heat = (
        f'<image class="heat" x="{box[0]}" y="{box[1]}" '
        f'width="{box[2] - box[0]}" height="{box[3] - box[1]}" '
        f'preserveAspectRatio="none" href="{href}"/>'
    )
    return [_ground(pale=True), heat]


def _figure(size: tuple[int, int], layers: Sequence[str], label: str, small: bool = False) -> str:
    """Return layers as one figure, in pixels of the image."""
    classes = "view small-view" if small else "view"
    return (
        f'<svg class="{classes}" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        f'aria-label="{escape(label)}">{"".join(layers)}</svg>'
    )


def _ground(pale: bool = False) -> str:
    """Return the image itself as a layer."""
    return f'<use href="#{IMAGE_ID}" class="{"pale" if pale else "bright"}"/>'


def _answer(answer: Answer, dense: Answer | None) -> str:
    """Return an answer, with whether it is the dense one's; None: it is that itself."""
    verdict = ""
    if dense is not None:
        if answer.answer.casefold() == dense.answer.casefold():
            verdict = ' <span class="verdict same">✓ same answer</span>'
        else:
            verdict = ' <span class="verdict other">✗ another answer</span>'
    # on one line; a long one in smaller type
    text = " ".join(answer.answer.split()) or "(nothing)"
    return f'<p class="answer{" long" if len(text) > 40 else ""}">{escape(text)}{verdict}</p>'


def _bars(answer: Answer, longest: float) -> str:
    """Return bars of tokens and time."""
    share = answer.kept_tokens / max(answer.visual_tokens, 1)
    tokens = _bar(f"{answer.kept_tokens:,} tokens", share)
    return tokens + _bar(f"{answer.total_ms:,.0f} ms", answer.total_ms / longest)


def _bar(label: str, share: float) -> str:
    """Return a bar of some share of the width, which is never too thin to see."""
    width = max(share, 0.01)
    return f'<div class="bar"><span>{label}</span><i><b style="width:{width:.1%}"></b></i></div>'


def _split(explanation: Explanation) -> str:
    """Draw k_t : k_v as one bar, and say what each list is for."""
    if explanation.split is None:
        return ""
    k_t, k_v = explanation.split
    # a token on both lists is kept once
    both = k_t + k_v - len(explanation.kept)
    note = f", {both} on both lists" if both > 0 else ""
    return (
        f'<div class="split" role="img" aria-label="split {k_t} by relevance to {k_v} by saliency">'
        f'<b style="flex:{k_t};background:{RELEVANCE}"></b>'
        f'<b style="flex:{k_v};background:{SALIENCY}"></b></div>'
        f'<p class="small"><em style="color:{RELEVANCE}">{k_t} most relevant</em> : '
        f'<em style="color:{SALIENCY}">{k_v} most salient</em>{note}</p>'
    )


def _words(explanation: Explanation) -> str:
    """Name the words that point at something, the strongest first."""
    pointing = [word for word in explanation.words if word.share >= 0.05]
    strongest = sorted(pointing, key=lambda word: -word.share)[:4]
    if not strongest:
        return ""
    # words as the visitor wrote them
    listed = " · ".join(f"{escape(word.text)} {word.share:.0%}" for word in strongest)
    return f'<p class="small">words that point: {listed}</p>'


def _others(result: Result, before: str | None) -> str:
    """Say how many kept tokens the question before did not keep."""
    if result.others is None or before is None or result.explanation is None:
        return ""
    kept = len(result.explanation.kept)
    return (
        f'<p class="small">{result.others:,} of {kept:,} are others than for “{escape(before)}”</p>'
    )


def _summary(name: str) -> str:
    """Return the first line of a method's docstring."""
    return (METHODS[name.partition(":")[0]].__doc__ or "").strip().splitlines()[0]


def _data(image: Image.Image, kind: str, **options: Any) -> str:
    """Return an image as a data URL."""
    # in memory: nothing of a visitor is written to disk
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"
