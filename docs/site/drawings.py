"""Drawings of the documentation: the loop of the photo model, all others of the embedded one."""

import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from writing import percent

from adafv.data.cases import CASES, EXPLAINED
from adafv.data.photographs import FOLDER
from adafv.data.scenes import draw
from adafv.methods import method
from adafv.models.images import open_image
from adafv.models.load import load
from adafv.models.prompting import build_inputs
from adafv.viz import Explanation, explanation, explanations, split_curves
from adafv.viz import figure as style
from adafv.viz.maps import draw_image, draw_kept

METHODS = ("fastervlm", "t2i", "adafv", "adafv+", "divprune", "uniform")
KEEP = 0.05
COLUMNS = 3
HEADING = 60  # pixels that a question stands in
HUES = ("#882255", "#117733", "#999933")
"""Of questions: no colour of saliency, relevance or both."""
LOOP = (1.0, 0.5, 0.25, 0.1, 0.05)
LOOP_MS = (1200, 900, 900, 900, 3500)
COMPARED = ("adafv", "random")
SCENE = 4
"""Number of the image that the README asks about, in the validation split."""
PHOTOGRAPH = "astronaut.jpg"
ASKED, TRUTH = "Is there an astronaut?", "Yes"
"""The README's first picture: a photograph, and what is asked about it."""


@cache
def _model(name: str | None = None) -> tuple[Any, Any]:
    return load(name)


def explained_inputs() -> tuple[Any, dict[str, Any]]:
    """The embedded model and its inputs for the first question about the first image of
    `scenes`.
    """
    model, processor = _model()
    return model, build_inputs(
        processor, draw(0, split="test", suite="scenes").image, _questions()[0]
    )


def explained(question: str, name: str = "adafv") -> Explanation:
    """A question about the first image of `scenes`."""
    return explanation(
        *_model(), draw(0, split="test", suite="scenes").image, question, method(name, keep=KEEP)
    )


def _questions() -> list[str]:
    return [question.text for question in draw(0, split="test", suite="scenes").questions]


def kept() -> bytes:
    """What several methods keep of one image for one question."""
    asked = draw(0, split="test", suite="scenes").questions[0]
    rows = -(-len(METHODS) // COLUMNS)
    high = style.HEAD + style.BODY
    page = style.PixelFigure(
        2 * style.MARGIN + COLUMNS * style.PANEL + (COLUMNS - 1) * style.GAP,
        style.MARGIN + HEADING + rows * (high + style.ROW) + style.BOTTOM,
    )
    page.text(style.MARGIN, style.MARGIN, f"{asked.text}  {percent(KEEP)} kept", 22, style.INK)
    for i, name in enumerate(METHODS):
        what = explained(asked.text, name)
        x = style.MARGIN + i % COLUMNS * (style.PANEL + style.GAP)
        y = style.MARGIN + HEADING + i // COLUMNS * (high + style.ROW)
        page.text(x, y + 12, name, 17, style.INK, weight="bold")
        mark, hue = _verdict(asked.accepts(what.pruned.answer))
        page.text(x, y + 40, f"{mark}  “{what.pruned.answer}”", 17, hue)
        draw_kept(page, x, y + style.HEAD, what)
    return _png(page.figure)


def _verdict(right: bool) -> tuple[str, str]:
    """Mark and colour of an answer."""
    return ("✓", style.RIGHT) if right else ("✗", style.WRONG)


def scene() -> bytes:
    """The image that the README asks about."""
    buffer = io.BytesIO()
    draw(SCENE, split="validation", suite="scenes").image.save(buffer, format="png")
    return buffer.getvalue()


def budget() -> bytes:
    """A loop: the budget falls, one method keeps the answer, random tokens lose it.

    Of the photo model, which `adafv fetch photo` puts together.
    """
    frames = []
    for share in LOOP:
        page = _compared(share)
        buffer = io.BytesIO()
        page.figure.savefig(buffer, format="png")
        frames.append(Image.open(buffer).convert("RGB"))
    frames = reduced(frames)
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="gif",
        save_all=True,
        append_images=frames[1:],
        duration=list(LOOP_MS),
        loop=0,
        optimize=True,
    )
    return buffer.getvalue()


def reduced(frames: list[Image.Image]) -> list[Image.Image]:
    """Frames in the same 128 colours, with those of the signals exactly as they are elsewhere."""
    # of all frames: what is pruned away in the last one keeps its colours there, too
    width, height = frames[0].size
    whole = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        whole.paste(frame, (0, height * number))
    colors = whole.quantize(120).getpalette() or []
    colors = colors[: 3 * 120]
    for hue in (style.SALIENCY, style.RELEVANCE, style.BOTH, style.PLAIN, style.RIGHT, style.WRONG):
        colors += [int(hue[i : i + 2], 16) for i in (1, 3, 5)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colors)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def right() -> bytes:
    """The last frame of the loop: where nothing may move."""
    return _png(_compared(LOOP[-1]).figure)


def _compared(share: float) -> style.PixelFigure:
    """The photograph, what two methods keep of it, and what is answered from each."""
    pruners = [method(name, keep=share) for name in COMPARED]
    whats = explanations(*_model("photo"), open_image(FOLDER / PHOTOGRAPH), ASKED, pruners)
    page = style.PixelFigure(
        2 * style.MARGIN + 3 * style.PANEL + 2 * style.GAP, 3 * style.MARGIN + style.BODY + 124
    )
    top = 2 * style.MARGIN + 50
    page.text(style.MARGIN, style.MARGIN + 6, ASKED, 34, style.INK, weight="bold")
    first = whats[0].pruned
    read = f"{percent(share)} of the visual tokens: {first.kept_tokens} of {first.visual_tokens}"
    page.text(page.width - style.MARGIN, style.MARGIN + 6, read, 26, style.GREY, ha="right")

    titles = ("all tokens", *COMPARED)
    answers = (whats[0].dense.answer, *(what.pruned.answer for what in whats))
    for i, (title, answer) in enumerate(zip(titles, answers, strict=True)):
        x = style.MARGIN + i * (style.PANEL + style.GAP)
        page.text(x, top, title, 24, style.INK, weight="bold")
        if i == 0:
            draw_image(page, x, top + 30, whats[0])
        else:
            draw_kept(page, x, top + 30, whats[i - 1])
        mark, hue = _verdict(answer == TRUTH)
        page.text(x, top + 30 + style.BODY + 38, f"{mark}  {answer}", 34, hue, weight="bold")
    return page


def split() -> bytes:
    """The mixture for three questions about one image: what every split captures, and the best
    one.
    """
    figure = Figure(figsize=(8, 3.4), dpi=150, facecolor=style.PAPER, layout="constrained")
    axes = figure.add_subplot()
    for question, hue in zip(_wanted(_questions()), HUES, strict=True):
        what = explained(question)
        assert what.split is not None
        assert what.relevance is not None
        assert what.saliency is not None
        k_t, _, _, both = split_curves(what.relevance, what.saliency, total := sum(what.split))
        axes.plot(
            k_t / total, both, color=hue, label=f"{question}  ({what.split[0]} : {what.split[1]})"
        )
        axes.plot(
            [what.split[0] / total], [both[np.searchsorted(k_t, what.split[0])]], "o", color=hue
        )
    axes.set(
        xlabel="share of the places that relevance gets",
        ylabel="captured (geometric mean)",
        xlim=(0, 1),
    )
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center")
    return _png(figure)


def _wanted(questions: Sequence[str]) -> list[str]:
    """Of seven questions three of different kinds: a colour, a count, a word to read."""
    return [questions[0], questions[2], questions[5]]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def explain() -> bytes:
    """The explain page of the demo's own case."""
    sample, question = CASES[EXPLAINED].load()
    what = explanation(*_model(), sample.image, question.text, method("adafv", keep=KEEP))
    return _png(what.figure())


DRAWINGS: dict[str, Callable[[], bytes]] = {
    "scene.png": scene,
    "explain.png": explain,
    "budget.gif": budget,
    "right.png": right,
    "kept.png": kept,
    "split.png": split,
}
"""Files of docs/drawings."""
