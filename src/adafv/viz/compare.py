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
from adafv.methods import NoPruning
from adafv.models.ask import ask_encoded
from adafv.models.images import to_rgb
from adafv.models.prompting import build_inputs
from adafv.utils.checks import checked
from adafv.viz.explained_answer import Explanation, check_drawable, explained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["explanations", "side_by_side"]


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
            model,
            processor,
            inputs=inputs,
            image=image,
            question=question,
            pruner=pruner,
            encoding=encoding,
            selection=selection,
            dense=dense,
            pruned=answer,
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
    from adafv.viz.compare_page import draw  # matplotlib takes a second to import

    return draw(whats, truth)
