"""Drawings of the documentation, from the embedded model."""

import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from adafv.data.scenes import draw
from adafv.methods import method
from adafv.models.load import load
from adafv.models.prompting import build_inputs
from adafv.viz import Explanation, explanation, split_curves
from adafv.viz import figure as style
from adafv.viz.maps import draw_kept

METHODS = ("fastervlm", "t2i", "adafv", "adafv+", "divprune", "uniform")
KEEP = 0.05
COLUMNS = 3
HUES = ("#0072b2", "#d55e00", "#009e73")


@cache
def _model() -> tuple[Any, Any]:
    return load()


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
    question = _questions()[0]
    rows = -(-len(METHODS) // COLUMNS)
    high = style.HEAD + style.BODY
    sheet = style.PixelFigure(
        2 * style.MARGIN + COLUMNS * style.PANEL + (COLUMNS - 1) * style.GAP,
        style.MARGIN + rows * (high + style.ROW) + style.BOTTOM,
    )
    for i, name in enumerate(METHODS):
        what = explained(question, name)
        x, y = (
            style.MARGIN + i % COLUMNS * (style.PANEL + style.GAP),
            style.MARGIN + i // COLUMNS * (high + style.ROW),
        )
        sheet.text(x, y + 12, name, 17, style.INK, weight="bold")
        verdict = (
            "the same answer as from all tokens"
            if what.pruned.answer == what.dense.answer
            else "another answer"
        )
        sheet.text(x, y + 40, f"{what.pruned.answer}: {verdict}", 13, style.GREY)
        draw_kept(sheet, x, y + style.HEAD, what)
    return _png(sheet.figure)


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


DRAWINGS: dict[str, Callable[[], bytes]] = {"kept": kept, "split": split}
