"""Answer a question about an image or a video, timed."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, ProcessorMixin

from adafv.core.chat_template import remember
from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.visual_tokens import Encoding
from adafv.models.generation import (
    check_answer_length,
    check_length,
    check_text_length,
    decode,
    generate,
    was_cut,
)
from adafv.models.prompting import build_inputs
from adafv.models.videos import Video
from adafv.utils.checks import checked
from adafv.utils.clock import now

__all__ = ["Answer", "ask", "ask_encoded"]


@dataclass(frozen=True)
class Answer:
    """An answer of a model, and what it cost.

    Attributes:
        answer: the text, stripped.
        method: name of the pruning method.
        visual_tokens: N, the tokens that could have been dropped.
        kept_tokens: how many of them the language model read (between its layers: on average).
        prefill_ms: from inputs on the device to the first token's logits: vision tower, selection
            and prefill.
        total_ms: from inputs on the device to the last token.
        cut: the answer ended because it had `max_new_tokens`, not because the model was done.

    Both times leave out loading and resizing the image. They are wall-clock, of this one call:
    the first call in a process pays for warming up.
    """

    answer: str
    method: str
    visual_tokens: int
    kept_tokens: int
    prefill_ms: float
    total_ms: float
    cut: bool = False


@checked
def ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    image: Image.Image | Video,
    question: str,
    pruner: Pruner,
    max_new_tokens: int = 64,
) -> Answer:
    """Answer one question about one image, greedily, from the visual tokens that are kept.

    Args:
        image: or a video, as `adafv.models.videos.open_video` reads it.

    Raises:
        ValueError: a question or image that `check_question` or `check_image` refuses, a model
            that reads no videos, or whose videos are not pruned, a prompt longer than the model
            reads, or `max_new_tokens` below 1.
    """
    check_answer_length(max_new_tokens)
    inputs = build_inputs(processor, image, question, model.device, model.dtype)
    check_text_length(model, inputs)
    remember(model, processor)
    # The clock starts with inputs on the device, before the vision tower.
    clock = _Clock(model.device)
    with torch.no_grad():
        # encode the image once, with what the method looks at
        encoding = pruner.encode(model, inputs)
    return _answer(model, processor, inputs, encoding, pruner, max_new_tokens, clock)[0]


@checked
def ask_encoded(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    inputs: dict[str, Any],
    encoding: Encoding,
    pruner: Pruner,
    max_new_tokens: int = 64,
) -> tuple[Answer, Selection]:
    """Answer like `ask`, about an encoded image; both times leave the vision tower out.

    Args:
        inputs: the prompt, see `build_inputs`.
        encoding: of its image, with the signals and words that the pruner looks at.

    Returns:
        The answer, and which tokens it was given from.

    Raises:
        ValueError: a budget that the pruner refuses, or a prompt longer than the model reads.
    """
    clock = _Clock(model.device)
    return _answer(model, processor, inputs, encoding, pruner, max_new_tokens, clock)


@torch.no_grad()
def _answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    inputs: dict[str, Any],
    encoding: Encoding,
    pruner: Pruner,
    max_new_tokens: int,
    clock: "_Clock",
) -> tuple[Answer, Selection]:
    """Answer from an encoding, and return the selection too; the clock runs already."""
    # prune, then answer from the shorter inputs
    with pruner.pruned(model, inputs, encoding) as (short, selection):
        check_length(model, short["input_ids"])
        # logits of the first token are seen by whatever processes them: the clock
        clocks = LogitsProcessorList([clock])
        output = generate(model, short, max_new_tokens, logits_processor=clocks)
    total_ms = clock.read()
    answer = Answer(
        answer=decode(processor, output)[0],
        method=pruner.spec,
        visual_tokens=sum(encoding.tokens.counts),
        # a method that prunes between layers reads different numbers in each: on average
        kept_tokens=round(sum(selection.tokens_read)),
        prefill_ms=clock.first_token_ms,
        total_ms=total_ms,
        cut=was_cut(model, output, max_new_tokens)[0],
    )
    return answer, selection


class _Clock(LogitsProcessor):
    """Milliseconds since it was made, and when the first logits came.

    It stands among the processors of logits, which it returns as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = now(device)
        self.first_token_ms = 0.0

    def read(self) -> float:
        """Return the milliseconds so far, after the device has finished."""
        return (now(self.device) - self.start) * 1000

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # only the first time: waiting for the device at every token would slow it
        if not self.first_token_ms:
            self.first_token_ms = self.read()
        return scores
