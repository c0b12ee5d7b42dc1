"""What the page shows of a question, as HTML and SVG: strings out, nothing of Gradio."""

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

KEPT, OUT, IN, BARE = "kept", "saliency", "relevance", "picture"
LAYERS = {
    "what is kept": KEPT,
    "what stands out": OUT,
    "what the words point at": IN,
    "the image alone": BARE,
}
"""What can be drawn over the image, by its name on the page."""

IMAGE_ID = "adafv-image"
SIDE, NOMINAL = 768, 320
"""Pixels: of the image as it is sent, and about as many as a card shows of it."""

Array = NDArray[Any]
Box = tuple[float, float, float, float]


@checked
def heading(model: str, device: str) -> str:
    """What this is."""
    return (
        '<header class="top"><h1>adafv</h1><p>One question, answered from every visual token and from a few of them.'
        f"</p><p>{escape(model)} on {escape(device)}</p></header>"
    )


@checked
def image(image: Image.Image) -> str:
    """The image, once; the cards refer to it, so that moving the budget doesn't send it again."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    width, height = image.size
    return (
        f'<svg class="store" width="0" height="0" aria-hidden="true"><defs><image id="{IMAGE_ID}" width="{width}" '
        f'height="{height}" preserveAspectRatio="none" href="{_data(small, "webp", quality=90)}"/>'
        f'<pattern id="{IMAGE_ID}-fill" patternUnits="userSpaceOnUse" width="{width}" height="{height}">'
        f'<use href="#{IMAGE_ID}"/></pattern></defs></svg>'
    )


@checked
def notice(sentence: str) -> str:
    """What is wrong, or nothing."""
    return f'<p class="notice" role="alert">{escape(sentence)}</p>' if sentence else ""


@checked
def waiting(image: Image.Image) -> str:
    """An image that nothing has been asked about yet."""
    figure = _figure(image.size, [_ground()], "the image")
    hint = '<p class="answer">Ask something about it.</p>'
    return f'<div class="cards"><article class="card">{figure}{hint}</article></div>'


@checked
def cards(sight: View, layer: str) -> str:
    """The dense answer beside those of the methods, each under the image.

    Args:
        layer: what is drawn over the image, a value of `LAYERS`.
    """
    dense = sight.results[0].answer
    answers = [result.answer for result in sight.results if result.answer is not None]
    longest = max((answer.total_ms for answer in answers), default=1.0)
    drawn = "".join(_card(sight, result, layer, dense, longest) for result in sight.results)
    return (
        f'<div class="cards">{drawn}</div><p class="small">The image was encoded once, in {sight.vision_ms:,.0f} ms; '
        "every question, method and budget uses that again. ms: choosing the tokens and the language model, up to the "
        "last word.</p>"
    )


def _card(sight: View, result: Result, layer: str, dense: Answer | None, longest: float) -> str:
    plain = result.method == DENSE
    name = "every token" if plain else result.method
    parts = [
        f'<h3 title="{escape(_summary(result.method))}">{escape(name)}</h3>',
        _drawing(sight, result, layer),
    ]
    if result.answer is not None:
        parts += [_answer(result.answer, None if plain else dense), _bars(result.answer, longest)]
        if result.answer.cut:
            parts.append(
                '<p class="small">The answer was cut: a larger --max-new-tokens lets it go on.</p>'
            )
    if result.note:
        parts.append(f'<p class="small">{escape(result.note)}</p>')
    if result.what is not None and not plain:
        parts += [_split(result.what), _words(result.what), _others(result, sight.before)]
    return f'<article class="card{" dense" if plain else ""}">{"".join(parts)}</article>'


def _drawing(sight: View, result: Result, layer: str) -> str:
    size, what = sight.image.size, result.what
    if what is None or layer == BARE:
        return _figure(size, [_ground()], "the image")
    own = {OUT: what.saliency, IN: what.relevance}.get(layer)
    caption = _caption(result.method, what, layer, own is not None)
    boxes: list[Box] = [what.view, (0.0, 0.0, float(size[0]), float(size[1]))]
    figures: list[str] = []
    for scale, box in zip(what.scales, boxes, strict=False):
        if layer == KEPT:
            layers = _kept(what, scale, box)
        else:
            values = own if own is not None else sight.saliency if layer == OUT else sight.relevance
            layers = _heat(what, scale, box, values, layer)
        figures.append(_figure(size, layers, caption, small=bool(figures)))
    return f'{"".join(figures)}<p class="small caption">{escape(caption)}</p>'


def _caption(name: str, what: Explanation, layer: str, own: bool) -> str:
    if layer != KEPT:
        seen = (
            "Where the vision tower looks"
            if layer == OUT
            else "What resembles the words of the question"
        )
        return f"{seen}." if own or name == DENSE else f"{seen}; {name} does not look at it."
    kept, count = len(what.kept), what.pruned.visual_tokens
    if kept == count:
        return f"All {count:,} tokens."
    return f"{kept:,} of {count:,} tokens" + (
        ", each an average of those near it." if what.merged else "."
    )


def _kept(what: Explanation, scale: Scale, box: Box) -> list[str]:
    """The kept patches bright, in a frame of the colour of who chose them; the rest pale and grey."""
    if len(what.kept) == what.pruned.visual_tokens:
        return [_ground()]
    width, height = (box[2] - box[0]) / scale.shape[1], (box[3] - box[1]) / scale.shape[0]
    unit = max(what.image.size) / NOMINAL
    line = float(np.clip(min(width, height) / unit / 8, 0.9, 2.6)) * unit
    place = dict(zip(scale.index.tolist(), scale.coordinates.tolist(), strict=True))

    def path(tokens: Sequence[int], inset: float) -> str:
        corners = (
            (box[0] + place[i][1] * width + inset, box[1] + place[i][0] * height + inset)
            for i in tokens
        )
        w, h = width - 2 * inset, height - 2 * inset
        return "".join(f"M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h{-w:.1f}z" for x, y in corners)

    here = [i for i in what.kept.tolist() if i in place]
    layers = [_ground(pale=True)]
    layers.append(f'<path fill="url(#{IMAGE_ID}-fill)" d="{path(here, 0)}"/>')
    for color, members in _chosen_by(what).items():
        if tokens := [i for i in here if i in members]:
            layers.append(
                f'<path fill="none" stroke="{color}" stroke-width="{line:.2f}" d="{path(tokens, line / 2)}"/>'
            )
    return layers


def _chosen_by(what: Explanation) -> dict[str, set[int]]:
    """Kept tokens by the colour of the list they are on."""
    by_relevance, by_saliency = what.chosen_by()
    lists = {
        RELEVANCE: by_relevance & ~by_saliency,
        SALIENCY: by_saliency & ~by_relevance,
        BOTH: by_relevance & by_saliency,
        PLAIN: ~(by_relevance | by_saliency),
    }
    return {color: set(what.kept[member].tolist()) for color, member in lists.items()}


def _heat(what: Explanation, scale: Scale, box: Box, values: Array, layer: str) -> list[str]:
    pixels = np.empty((*scale.shape, 4))
    pixels[..., :3], pixels[..., 3] = (
        to_rgb(SALIENCY if layer == OUT else RELEVANCE),
        0.92 * shade(scale, values),
    )
    href = _data(Image.fromarray(np.round(pixels * 255).astype(np.uint8)), "png")
    return [
        _ground(pale=True),
        f'<image class="heat" x="{box[0]}" y="{box[1]}" width="{box[2] - box[0]}" height="{box[3] - box[1]}" '
        f'preserveAspectRatio="none" href="{href}"/>',
    ]


def _figure(size: tuple[int, int], layers: Sequence[str], label: str, small: bool = False) -> str:
    return (
        f'<svg class="view{" small-view" if small else ""}" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        f'aria-label="{escape(label)}">{"".join(layers)}</svg>'
    )


def _ground(pale: bool = False) -> str:
    return f'<use href="#{IMAGE_ID}" class="{"pale" if pale else "bright"}"/>'


def _answer(answer: Answer, dense: Answer | None) -> str:
    verdict = ""
    if dense is not None:
        same = answer.answer.casefold() == dense.answer.casefold()
        kind, text = ("same", "✓ same answer") if same else ("other", "✗ another answer")
        verdict = f' <span class="verdict {kind}">{text}</span>'
    text = " ".join(answer.answer.split()) or "(nothing)"
    return f'<p class="answer{" long" if len(text) > 40 else ""}">{escape(text)}{verdict}</p>'


def _bars(answer: Answer, longest: float) -> str:
    share = answer.kept_tokens / max(answer.visual_tokens, 1)
    rows = (
        (f"{answer.kept_tokens:,} tokens", share),
        (f"{answer.total_ms:,.0f} ms", answer.total_ms / longest),
    )
    return "".join(
        f'<div class="bar"><span>{label}</span><i><b style="width:{max(portion, 0.01):.1%}"></b></i></div>'
        for label, portion in rows
    )


def _split(what: Explanation) -> str:
    """k_t : k_v as one bar, and what each list is for."""
    if what.split is None:
        return ""
    k_t, k_v = what.split
    both = k_t + k_v - len(what.kept)
    note = f", {both} on both lists" if both > 0 else ""
    return (
        f'<div class="split" role="img" aria-label="split {k_t} by relevance to {k_v} by saliency">'
        f'<b style="flex:{k_t};background:{RELEVANCE}"></b><b style="flex:{k_v};background:{SALIENCY}"></b></div>'
        f'<p class="small"><em style="color:{RELEVANCE}">{k_t} most relevant</em> : '
        f'<em style="color:{SALIENCY}">{k_v} most salient</em>{note}</p>'
    )


def _words(what: Explanation) -> str:
    strongest = sorted((w for w in what.words if w.share >= 0.05), key=lambda w: -w.share)[:4]
    if not strongest:
        return ""
    listed = " · ".join(f"{escape(w.text)} {w.share:.0%}" for w in strongest)
    return f'<p class="small">words that point: {listed}</p>'


def _others(result: Result, before: str | None) -> str:
    if result.others is None or before is None or result.what is None:
        return ""
    kept = len(result.what.kept)
    return (
        f'<p class="small">{result.others:,} of {kept:,} are others than for “{escape(before)}”</p>'
    )


def _summary(name: str) -> str:
    return (METHODS[name.partition(":")[0]].__doc__ or "").strip().splitlines()[0]


def _data(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"
