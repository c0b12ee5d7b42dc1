"""Answer a question about an image, timed."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, ProcessorMixin

from adafv.core.pruner import Pruner, Selection
from adafv.core.turns import remember
from adafv.core.visual_tokens import Encoding
from adafv.models.generation import check_answer_length, check_length, decode, generate, was_cut
from adafv.models.prompting import build_inputs
from adafv.utils.checks import checked
from adafv.utils.clock import now

__all__ = [
    "Answer",
    "ask",
    "ask_encoded",
]


@dataclass(frozen=True)
class Answer:
    """What a model says, and what it cost.

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
    image: Image.Image,
    question: str,
    pruner: Pruner,
    max_new_tokens: int = 64,
) -> Answer:
    """Answer one question about one image, greedily, from the visual tokens that the pruner
    keeps.

    Raises:
        ValueError: a question or image that `check_question` or `check_image` refuses, a prompt
            longer than the model reads, or `max_new_tokens` below 1.
    """
    check_answer_length(max_new_tokens)
    inputs = build_inputs(processor, image, question, model.device, model.dtype)
    remember(model, processor)
    clock = _Clock(model.device)
    with torch.no_grad():
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
    """As `ask`, about an image that is encoded already; both times leave the vision tower out.

    Args:
        inputs: the prompt, see `build_inputs`.
        encoding: of its image, with the signals and words that the pruner looks at.

    Returns:
        The answer, and which tokens it was given from.

    Raises:
        ValueError: a budget that the pruner refuses, or a prompt longer than the model reads.
    """
    return _answer(model, processor, inputs, encoding, pruner, max_new_tokens, _Clock(model.device))


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
    with pruner.pruned(model, inputs, encoding) as (short, selection):
        check_length(model, short["input_ids"])
        output = generate(
            model, short, max_new_tokens, logits_processor=LogitsProcessorList([clock])
        )
    total_ms = clock.read()
    answer = Answer(
        answer=decode(processor, output)[0],
        method=pruner.spec,
        visual_tokens=sum(encoding.tokens.counts),
        kept_tokens=round(sum(selection.tokens_read)),
        prefill_ms=clock.first_token_ms,
        total_ms=total_ms,
        cut=was_cut(model, output, max_new_tokens)[0],
    )
    return answer, selection


class _Clock(LogitsProcessor):
    """Milliseconds since it was made, and when the first logits came."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = now(device)
        self.first_token_ms = 0.0

    def read(self) -> float:
        return (now(self.device) - self.start) * 1000

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.first_token_ms:
            self.first_token_ms = self.read()
        return scores
