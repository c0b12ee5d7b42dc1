"""Several methods on one question, explained from one pass of the vision tower, side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from adafv.core.chat_template import remember
from adafv.core.encode import encode
from adafv.core.pruner import Pruner
from adafv.core.signals import Signal
from adafv.data.judging import same_answer
from adafv.methods import NoPruning
from adafv.models.ask import ask_encoded
from adafv.models.images import to_rgb
from adafv.models.prompting import build_inputs
from adafv.utils.checks import checked
from adafv.viz.explained_answer import Explanation, check_drawable, explained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["explanations", "side_by_side"]

COLUMNS = 3


@checked
@torch.no_grad()
def explanations(
    model: PreTrainedModel,
    processor: Any,
    image: Image.Image,
    question: str,
    pruners: Sequence[Pruner],
    max_new_tokens: int = 64,
) -> list[Explanation]:
    """Explain one question by several methods, as `explanation` does by one.

    The image is encoded once, and times leave the vision tower out.

    Raises:
        ValueError: a method whose choice cannot be drawn, or what `ask` refuses.
    """
    signals: set[Signal] = set()
    for pruner in pruners:
        check_drawable(pruner)
        signals |= pruner.signals

    image = to_rgb(image)
    inputs = build_inputs(processor, image, question, model.device, model.dtype)
    remember(model, processor)
    encoded = encode(model, inputs, signals=signals, text=False)
    dense, _ = ask_encoded(
        model, processor, inputs, encoded, NoPruning(), max_new_tokens=max_new_tokens
    )
    found = []
    for pruner in pruners:
        encoding = pruner.reask(model, inputs, encoded)
        answer, selection = ask_encoded(
            model, processor, inputs, encoding, pruner, max_new_tokens=max_new_tokens
        )
        what = explained(
            model, processor, inputs, image, question, pruner, encoding, selection, dense, answer
        )
        found.append(what)
    return found


@checked
def side_by_side(whats: Sequence[Explanation], truth: str | None = None) -> "Figure":
    """Draw what several methods keep of one image, and what each answers from it.

    Args:
        whats: one or more, see `explanations`.
        truth: the right answer, against which answers are marked; None: the dense model's, where
            there is one.
    """
    from adafv.viz.figure import (  # matplotlib takes a second to import
        BODY,
        BOTTOM,
        GAP,
        GREY,
        HEAD,
        INK,
        MARGIN,
        PANEL,
        RIGHT,
        ROW,
        WRONG,
        PixelFigure,
        wrapped,
    )
    from adafv.viz.maps import draw_image, draw_kept

    first = whats[0]
    dense = first.dense.answer if first.dense is not None else None
    right = truth or dense
    rows = -(-len(whats) // COLUMNS)
    columns = min(max(len(whats), 2), COLUMNS)
    row_height = HEAD + BODY + ROW
    figure = PixelFigure(
        2 * MARGIN + columns * PANEL + (columns - 1) * GAP,
        MARGIN + BODY + ROW + rows * row_height + BOTTOM,
    )

    def answer(x: float, y: float, text: str, room: float) -> None:
        mark, color = "", INK
        if right is not None:
            mark, color = ("✓  ", RIGHT) if same_answer(text, right) else ("✗  ", WRONG)
        shown = wrapped(text, 80, 1)[0] or "(nothing)"
        figure.text(x, y, f"{mark}{shown}", 22, color, room)

    # the image, and beside it question and answers
    draw_image(figure, MARGIN, MARGIN, first)
    x = MARGIN + PANEL + GAP
    room = figure.width - MARGIN - x
    for i, line in enumerate(wrapped(first.question, 25 * (columns - 1), 3)):
        figure.text(x, MARGIN + 24 + 36 * i, line, 27, INK, room, weight="bold")
    if dense is not None:
        figure.text(x, MARGIN + 160, "from all tokens", 17, GREY)
        answer(x, MARGIN + 192, dense, room)
    if truth is not None:
        figure.text(x, MARGIN + 250, "the truth", 17, GREY)
        figure.text(x, MARGIN + 282, wrapped(truth, 80, 1)[0], 22, INK, room)

    # a panel for each method
    for i, what in enumerate(whats):
        row, column = divmod(i, COLUMNS)
        x = MARGIN + column * (PANEL + GAP)
        y = MARGIN + BODY + ROW + row * row_height
        figure.text(x, y + 6, what.method, 22, INK, PANEL, weight="bold")
        budget = f"{what.pruned.kept_tokens:,} of {what.pruned.visual_tokens:,}"
        width = figure.text(x + PANEL, y + 40, budget, 17, GREY, ha="right")
        answer(x, y + 40, what.pruned.answer, PANEL - width - 20)
        draw_kept(figure, x, y + HEAD, what)
    return figure.finished()
