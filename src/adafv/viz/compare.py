"""Several methods on one question: explained from one pass of the vision tower, drawn beside one
another.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from adafv.core.encode import encode
from adafv.core.pruner import Pruner
from adafv.core.turns import remember
from adafv.methods import NoPruning
from adafv.models.ask import ask_encoded
from adafv.models.prompting import build_inputs
from adafv.utils.checks import checked
from adafv.viz.collect import Explanation, check_drawable, explained

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
    """As `explanation`, for several methods: the image is encoded once, and times leave the
    vision tower out.

    Raises:
        ValueError: a method whose choice cannot be drawn, or what `ask` refuses.
    """
    for pruner in pruners:
        check_drawable(model, pruner)
    image = image.convert("RGB")
    inputs = build_inputs(processor, image, question, model.device, model.dtype)
    remember(model, processor)
    picture = encode(
        model, inputs, signals=frozenset().union(*(p.signals for p in pruners)), text=False
    )
    dense, _ = ask_encoded(
        model, processor, inputs, picture, NoPruning(), max_new_tokens=max_new_tokens
    )
    found = []
    for pruner in pruners:
        encoding = pruner.reask(model, inputs, picture)
        answer, selection = ask_encoded(
            model, processor, inputs, encoding, pruner, max_new_tokens=max_new_tokens
        )
        found.append(
            explained(processor, image, question, pruner, encoding, selection, dense, answer)
        )
    return found


@checked
def side_by_side(whats: Sequence[Explanation], truth: str | None = None) -> "Figure":
    """Draw what several methods keep of one image for one question, and what each answers from
    it.

    Args:
        whats: one or more, see `explanations`.
        truth: the right answer, against which answers are marked; None: the dense model's.
    """
    from adafv.viz.figure import (
        BODY,
        BOTTOM,
        GAP,
        GREY,
        HEAD,
        INK,
        MARGIN,
        PANEL,
        PLAIN,
        RELEVANCE,
        ROW,
        PixelFigure,
        wrapped,
    )
    from adafv.viz.maps import draw_image, draw_kept  # matplotlib takes a second to import

    first, rows = whats[0], -(-len(whats) // COLUMNS)
    columns = min(max(len(whats), 2), COLUMNS)
    high = HEAD + BODY + ROW
    sheet = PixelFigure(
        2 * MARGIN + columns * PANEL + (columns - 1) * GAP,
        MARGIN + BODY + ROW + rows * high + BOTTOM,
    )

    def answer(x: float, y: float, text: str) -> None:
        right = text.casefold() == (truth or first.dense.answer).casefold()
        mark, hue = ("✓", PLAIN) if right else ("✗", RELEVANCE)
        sheet.text(x, y, f"{mark}  {wrapped(text, 24, 1)[0] or '(nothing)'}", 22, hue)

    draw_image(sheet, MARGIN, MARGIN, first)
    beside = MARGIN + PANEL + GAP
    for i, line in enumerate(wrapped(first.question, 30 * (columns - 1), 3)):
        sheet.text(beside, MARGIN + 24 + 36 * i, line, 27, INK, weight="bold")
    sheet.text(beside, MARGIN + 160, "from all tokens", 17, GREY)
    answer(beside, MARGIN + 192, first.dense.answer)
    if truth is not None:
        sheet.text(beside, MARGIN + 250, "the truth", 17, GREY)
        sheet.text(beside, MARGIN + 282, truth, 22, INK)
    for i, what in enumerate(whats):
        x, y = MARGIN + i % COLUMNS * (PANEL + GAP), MARGIN + BODY + ROW + i // COLUMNS * high
        sheet.text(x, y + 30, what.method, 22, INK, weight="bold")
        answer(x + 190, y + 30, what.pruned.answer)
        draw_kept(sheet, x, y + HEAD, what)
    return sheet.finished()
