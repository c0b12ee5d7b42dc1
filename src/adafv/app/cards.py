"""Write what the page shows of a question, as HTML: strings, nothing of Gradio."""

from html import escape

from PIL import Image

from adafv.app.drawing import Box, figure, frame_colors, ground, heat, kept
from adafv.app.view import DENSE, Result, View
from adafv.data.judging import same_answer
from adafv.methods import KNOWN
from adafv.models.ask import Answer
from adafv.utils.checks import checked
from adafv.viz import Explanation
from adafv.viz.figure import BOTH, PLAIN, RELEVANCE, SALIENCY
from adafv.viz.grids import ranges

__all__ = ["LAYERS", "cards", "heading", "notice", "same", "summary", "waiting"]

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

LEGEND = {
    SALIENCY: "salient<span>: the vision tower looks at it</span>",
    RELEVANCE: "relevant<span>: it resembles the words</span>",
    BOTH: "both",
    PLAIN: "<span>kept for </span>another reason",
}
"""What a colour says of a token, whatever method keeps it."""
DISTINCT = "salient<span>: it differs from the rest</span>"
"""The same of a salient token, in families whose tower shows no attention."""
LISTED = 240
"""Characters of a list of tokens that have no known place."""


@checked
def heading(model: str, device: str) -> str:
    """Return the page's heading."""
    return (
        '<header class="top"><h1>adafv</h1>'
        "<p>One question, answered from every visual token and from a few of them.</p>"
        f"<p>{escape(model)} on {escape(device)}</p></header>"
    )


@checked
def notice(sentence: str) -> str:
    """Return a sentence on what is wrong, or nothing."""
    return f'<p class="notice" role="alert">{escape(sentence)}</p>' if sentence else ""


@checked
def waiting(image: Image.Image) -> str:
    """Return an image that nothing has been asked about yet."""
    # without a question there is nothing to draw over it
    drawn = figure(image.size, [ground()], "the image")
    hint = '<p class="answer">Ask something about it.</p>'
    return f'<div class="cards"><article class="card">{drawn}{hint}</article></div>'


@checked
def cards(view: View, layer: str) -> str:
    """Return a sentence, a legend, and a card for the answer of each method, the dense one first.

    Args:
        layer: what is drawn over the image, a value of `LAYERS`.
    """
    # bars of time are in proportion to the longest
    dense = view.results[0].answer
    times = [result.answer.total_ms for result in view.results if result.answer is not None]
    longest = max(times, default=1.0)
    drawn = "".join(_card(view, result, layer, dense, longest) for result in view.results)
    return f'{_headline(view)}{_legend(view, layer)}<div class="cards">{drawn}</div>'


def _headline(view: View) -> str:
    """Say what the first method saves and whether its answer stays, as measured just now."""
    dense = view.results[0].answer
    pruned = view.results[1].answer if len(view.results) > 1 else None
    if dense is None or pruned is None:
        return ""
    parts = [
        _times(dense.kept_tokens, pruned.kept_tokens, "fewer tokens", "as many tokens", ""),
        _times(
            dense.prefill_ms,
            pruned.prefill_ms,
            "faster from encoding to the first token",
            "as fast from encoding to the first token",
            "slower from encoding to the first token",
        ),
        "same answer" if same(pruned, dense) else "another answer",
    ]
    return (
        f'<div class="headline"><h2>{escape(view.results[1].method)}: {", ".join(parts)}.</h2>'
        f'<p class="small">Timed once, when it was first asked: {pruned.prefill_ms:,.0f} ms '
        f"instead of {dense.prefill_ms:,.0f} ms from the encoded image to the first token. "
        f"Encoding the image took {view.vision_ms:,.0f} ms, once for all of them.</p></div>"
    )


def _times(before: float, after: float, less: str, equal: str, more: str) -> str:
    """Say by which factor something became less, or more."""
    factor = before / max(after, 1e-9)
    if 0.95 < factor < 1.05:
        return equal
    name = less if factor > 1 else more
    factor = max(factor, 1 / factor)
    # "20 times", "6.1 times"
    return f"{factor:.0f} times {name}" if factor >= 9.95 else f"{factor:.1f} times {name}"


def _legend(view: View, layer: str) -> str:
    """Say what the colours of the frames mean; nothing, where the layer draws none."""
    if layer != KEPT:
        return ""
    occurring: set[str] = set()
    names = dict(LEGEND)
    for result in view.results:
        if result.explanation is not None:
            if not result.explanation.attention:
                names[SALIENCY] = DISTINCT
            occurring |= frame_colors(result.explanation)
    items = [
        f'<li><i style="background:{color}"></i><b>{name}</b></li>'
        for color, name in names.items()
        if color in occurring
    ]
    return f'<ul class="legend small" aria-label="Colours">{"".join(items)}</ul>' if items else ""


def _card(view: View, result: Result, layer: str, dense: Answer | None, longest: float) -> str:
    """Return a method's card: name, image, answer, bars, notes."""
    # the dense card has neither split nor comparison
    plain = result.method == DENSE
    name = "every token" if plain else result.method
    parts = [
        f"<h3>{escape(name)}</h3>",
        f'<p class="small what">{escape(summary(result.method))}</p>',
        f'<div class="sight">{_drawing(view, result, layer)}</div>',
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
        return figure(size, [ground()], "the image")
    if not explanation.scales:
        return figure(size, [ground()], "the image") + _listed(explanation)

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
            layers = kept(explanation, scale, box)
        else:
            layers = heat(scale, box, values, SALIENCY if layer == SALIENT else RELEVANCE)
        figures.append(figure(size, layers, caption, small=bool(figures)))
    return f'{"".join(figures)}<p class="small caption">{escape(caption)}</p>'


def _listed(explanation: Explanation) -> str:
    """List the kept tokens where it is not known where they lie."""
    listed = ranges(explanation.kept.tolist())
    if len(listed) > LISTED:
        listed = f"{listed[:LISTED]}…"
    return (
        f'<p class="small caption">{len(explanation.kept):,} of '
        f"{explanation.pruned.visual_tokens:,} tokens; where they lie is not known: {listed}</p>"
    )


def _caption(name: str, explanation: Explanation, layer: str, own: bool) -> str:
    """Say what a layer shows; `own`: the method looks at it."""
    if layer == KEPT:
        count = explanation.pruned.visual_tokens
        left = len(explanation.kept)
        if left == count:
            return f"All {count:,} tokens."
        if explanation.stages:
            stages = [
                f"{len(stage.kept):,} after layer {stage.layers}" for stage in explanation.stages
            ]
            return f"{count:,} tokens at first, {', '.join(stages)}."
        merged = ", each an average of those near it" if explanation.merged else ""
        return f"{left:,} of {count:,} tokens{merged}."
    shown = "What resembles the words of the question"
    if layer == SALIENT:
        looks = explanation.attention
        shown = "Where the vision tower looks" if looks else "What differs from the rest"
    if own or name == DENSE:
        return f"{shown}."
    return f"{shown}; {name} has no such score."


@checked
def same(answer: Answer, other: Answer) -> bool:
    """Say whether two answers read the same."""
    return same_answer(answer.answer, other.answer)


def _answer(answer: Answer, dense: Answer | None) -> str:
    """Return an answer, with whether it is the dense one's; None: it is that itself."""
    verdict = ""
    if dense is not None:
        if same(answer, dense):
            verdict = ' <span class="verdict same">✓ same answer</span>'
        else:
            verdict = ' <span class="verdict other">✗ another answer</span>'
    # on one line; a long one in smaller type
    text = " ".join(answer.answer.split()) or "(nothing)"
    return f'<p class="answer{" long" if len(text) > 40 else ""}">{escape(text)}{verdict}</p>'


def _bars(answer: Answer, longest: float) -> str:
    """Return bars of tokens, and of time without that of the vision tower, which all share."""
    share = answer.kept_tokens / max(answer.visual_tokens, 1)
    tokens = _bar(f"{answer.kept_tokens:,} tokens", share)
    label = f"{answer.total_ms:,.0f} ms after encoding"
    return tokens + _bar(label, answer.total_ms / longest)


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
    note = f", {both} on both lists: {len(explanation.kept)} in all" if both > 0 else ""
    return (
        f'<div class="split" role="img" aria-label="split {k_t} by relevance to {k_v} by saliency">'
        f'<b style="flex:{k_t};background:{RELEVANCE}"></b>'
        f'<b style="flex:{k_v};background:{SALIENCY}"></b></div>'
        f'<p class="small"><em class="relevant">{k_t} most relevant</em> : '
        f'<em class="salient">{k_v} most salient</em>{note}</p>'
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
    of = f"{result.others:,} of the {len(result.explanation.kept):,}"
    return f'<p class="small">{of} were not kept for “{escape(before)}”</p>'


@checked
def summary(name: str) -> str:
    """Return what a method keeps: the first line of its docstring.

    Raises:
        ValueError: there is no such method.
    """
    method = KNOWN.get(name.partition(":")[0])
    if method is None:
        raise ValueError(f"method {name!r} is unknown: choose one that `adafv methods` names")
    return (method.__doc__ or "").strip().splitlines()[0]
