"""The Hugging Face engine: questions on pictures, answered together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from adafv.ask import build_batch, check_length, decode, generate
from adafv.encode import encode, reask
from adafv.encoding import Encoding
from adafv.pruner import Pruner

__all__ = ["Asked", "answers"]


@dataclass(frozen=True)
class Asked:
    """A line that has a picture and a question; the same picture is the same object."""

    number: int
    picture: Image.Image
    question: str
    pruner: Pruner


@torch.no_grad()
def answers(
    model: PreTrainedModel, processor: ProcessorMixin, group: Sequence[Asked], max_new_tokens: int
) -> list[dict[str, Any]]:
    """Answer, visual_tokens and kept_tokens of each question; the first one's pruner holds for all.

    Raises:
        ValueError: a question, picture or budget among them that cannot be answered.
    """
    pruner, inputs = group[0].pruner, _inputs(model, processor, group)
    encoding = _encoding(model, processor, group, inputs)
    counts = encoding.tokens.counts
    selection = pruner.select(encoding.tokens, [pruner.budget(n) for n in counts])
    short = pruner.rebuild(model, inputs, encoding, selection)
    check_length(model, short["input_ids"])
    with pruner.inside(model, encoding):
        texts = decode(processor, generate(model, short, max_new_tokens))
    visual, kept = [0] * len(group), [0.0] * len(group)
    for span, count, read in zip(encoding.spans, counts, selection.tokens_read, strict=True):
        visual[span.row] += count
        kept[span.row] += read
    return [
        {"answer": text, "visual_tokens": n, "kept_tokens": round(k)}
        for text, n, k in zip(texts, visual, kept, strict=True)
    ]


def _encoding(
    model: PreTrainedModel, processor: ProcessorMixin, group: Sequence[Asked], inputs: dict[str, Any]
) -> Encoding:
    """The encoded pictures of a group, each run through the tower once."""
    pruner, distinct = group[0].pruner, {id(asked.picture): asked for asked in group}
    if len(distinct) == len(group):
        return pruner.encode(model, inputs)
    once = encode(model, _inputs(model, processor, [*distinct.values()]), signals=pruner.signals, text=False)
    place = {picture: i for i, picture in enumerate(distinct)}
    return reask(
        model,
        inputs,
        once,
        [place[id(asked.picture)] for asked in group],
        text=pruner.needs_text,
        query=cast(Tensor | None, pruner.query),
        skip=frozenset(pruner.skip),
    )


def _inputs(model: PreTrainedModel, processor: ProcessorMixin, group: Sequence[Asked]) -> dict[str, Any]:
    pictures, questions = [asked.picture for asked in group], [asked.question for asked in group]
    return build_batch(processor, pictures, questions, model.device, model.dtype)
