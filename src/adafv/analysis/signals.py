"""What is compared: scores of the visual tokens of a question."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from adafv.analysis.statistics import Array
from adafv.core.capture import observe
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.families.base import layers_of
from adafv.methods import NoPruning
from adafv.ops.saliency import attention_rows, mean_cosine_distance, received_attention
from adafv.utils.checks import checked

__all__ = [
    "chance",
    "distinct",
    "llm_attention",
    "measured_layers",
    "mutual_attention",
    "similarity",
]


@checked
def similarity(tokens: VisualTokens) -> Tensor:
    """(I, N) cosine of each visual token with the word of the question that it resembles most.

    Before the softmax that makes text-to-image attention of it, see
    `adafv.ops.relevance.text_to_image_attention`.
    """
    assert tokens.text is not None
    assert tokens.text_mask is not None
    cosine = (
        F.normalize(tokens.text.float(), dim=-1) @ F.normalize(tokens.features.float(), dim=-1).mT
    )
    return cosine.masked_fill(~tokens.text_mask[..., None], -torch.inf).amax(1)


@checked
def mutual_attention(tokens: VisualTokens) -> Tensor:
    """(I, N) attention that each visual token receives from the others: softmax of V · Vᵀ / √D,
    mean over rows.
    """
    features = tokens.features[:, None]
    return received_attention(features, features, features.shape[-1] ** -0.5, tokens.mask)


@checked
def distinct(tokens: VisualTokens) -> Tensor:
    """(I, N) how much each visual token differs from the others, see
    `adafv.ops.saliency.mean_cosine_distance`.
    """
    each = [
        mean_cosine_distance(f[:n]) for f, n in zip(tokens.features, tokens.counts, strict=True)
    ]
    return pad_sequence(each, batch_first=True)


@checked
def chance(count: int, seed: int, *names: str) -> Array:
    """(N,) random numbers, others for every image and question: the control."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)]).random(
        count
    )


@checked
def measured_layers(count: int) -> list[int]:
    """The layers of a language model whose attention is measured: the second, which FastV (arXiv
    2403.06764) reads, and the middle one.
    """
    return sorted({min(1, count - 1), count // 2})


@checked
def llm_attention(
    model: PreTrainedModel, inputs: Mapping[str, Any], encoding: Encoding, layers: Sequence[int]
) -> list[list[Tensor]]:
    """Attention of the last token of a prompt to its visual tokens, mean over heads, with every
    visual token kept.

    The language model runs once, under its own attention function; the one row is computed beside
    it. Causal attention of the last token is taken to see everything: a sliding window is not
    observed.

    Args:
        inputs: prompts padded on the left, as `adafv.models.prompting.build_batch` makes them, with
            one image each.
        encoding: of those prompts.
        layers: indices of decoder layers.

    Returns:
        For each layer, one (N,) fp32 tensor per image; the rest of the row's mass is on text.
    """
    decoder: Any = model.get_decoder()
    layer_of = {module: i for i in layers for module in layers_of(decoder)[i].modules()}
    real = encoding.prompt.mask.to(model.device)
    rows: dict[int, Tensor] = {}

    def keep_last_row(
        module: nn.Module, query: Tensor, key: Tensor, scale: float, mask: Tensor | None
    ) -> None:
        if module in layer_of:
            rows[layer_of[module]] = attention_rows(query[:, :, -1:], key, scale, real[:, None])[
                :, 0
            ]

    with observe(decoder, keep_last_row):
        model(**NoPruning().prune(model, inputs, encoding), use_cache=False, logits_to_keep=1)
    places = [
        span.positions.to(patch_indices.device)[patch_indices]
        for span, patch_indices in zip(encoding.spans, encoding.patch_indices, strict=True)
    ]
    return [
        [rows[i][span.row, p] for span, p in zip(encoding.spans, places, strict=True)]
        for i in layers
    ]
