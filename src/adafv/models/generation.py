"""Generate greedy answers, decode them, and check what limits their length."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from adafv.core.inputs import placeholders
from adafv.utils.checks import checked

__all__ = [
    "check_answer_length",
    "check_length",
    "check_text_length",
    "decode",
    "generate",
    "was_cut",
]


@checked
def generate(
    model: PreTrainedModel, inputs: dict[str, Any], max_new_tokens: int, **options: Any
) -> Tensor:
    """Return the ids (B, new) of greedy answers."""
    generator: Any = model  # transformers' generate has no types that mypy accepts
    output = generator.generate(
        **inputs, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, **options
    )
    # (B, L + new) → (B, new)
    return output[:, inputs["input_ids"].shape[1] :]


@checked
def was_cut(model: PreTrainedModel, output: Tensor, max_new_tokens: int) -> list[bool]:
    """Return for each answer (B, new) whether it was cut off at `max_new_tokens`."""
    # a model may have several tokens that end an answer, or one, or none that is known
    ends = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        ends = []
    elif isinstance(ends, int):
        ends = [ends]

    full = output.shape[1] >= max_new_tokens
    cut = []
    for row in output.tolist():
        ended = any(token in ends for token in row)
        cut.append(full and not ended)
    return cut


@checked
def check_answer_length(max_new_tokens: int) -> None:
    """Raise a `ValueError` if an answer could have no token."""
    if max_new_tokens < 1:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} leaves no room for an answer: pass 1 or more"
        )


@checked
def decode(processor: ProcessorMixin, output: Tensor) -> list[str]:
    """Return answers as text, stripped."""
    return [text.strip() for text in processor.batch_decode(output, skip_special_tokens=True)]


@checked
def check_text_length(model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if the text of prompts (B, L) alone is longer than the model reads.

    It is known before images are encoded and compared with every token of the text.
    """
    limit = _limit(model)
    ids = inputs["input_ids"]  # (B, L)
    if not limit or ids.shape[1] <= limit:
        return
    visual = torch.tensor([*placeholders(model.config).values()], device=ids.device)
    is_text = inputs["attention_mask"].bool() & ~torch.isin(ids, visual)  # (B, L)
    longest = int(is_text.sum(1).max())
    if longest > limit:
        raise ValueError(
            f"the prompt has {longest} tokens of text, the model reads {limit}: "
            "shorten the question"
        )


@checked
def check_length(model: PreTrainedModel, ids: Tensor) -> None:
    """Raise a `ValueError` if prompts (B, L) are longer than the model reads."""
    limit = _limit(model)
    if limit and ids.shape[1] > limit:
        raise ValueError(
            f"the prompt has {ids.shape[1]} tokens, the model reads {limit}: shorten the question"
        )


def _limit(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model reads; not every configuration has a limit."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit
