"""The signals that are compared: scores of the visual tokens of a question."""

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
from adafv.core.capture import Shown, observe
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
    """Return the cosine of each visual token with the text token that it resembles most.

    Text-to-image attention is a softmax of it, see `adafv.ops.relevance.text_to_image_attention`.

    Returns:
        (I, N) fp32, 0 for a question without a text token.
    """
    assert tokens.text is not None
    assert tokens.text_mask is not None
    if tokens.text.shape[1] == 0:
        return torch.zeros_like(tokens.mask, dtype=torch.float32)
    text = F.normalize(tokens.text.float(), dim=-1)  # (I, M, D)
    features = F.normalize(tokens.features.float(), dim=-1)  # (I, N, D)
    cosine = text @ features.mT  # (I, M, N)
    # padding of the text resembles nothing
    strongest = cosine.masked_fill(~tokens.text_mask[..., None], -torch.inf).amax(1)  # (I, N)
    return strongest.where(tokens.text_mask.any(1, keepdim=True), 0.0)


@checked
def mutual_attention(tokens: VisualTokens) -> Tensor:
    """Return the attention that each visual token receives from the others.

    That is softmax of V · Vᵀ / √D, mean over rows.

    Returns:
        (I, N).
    """
    features = tokens.features[:, None]  # (I, 1, N, D), one head
    return received_attention(features, features, features.shape[-1] ** -0.5, tokens.mask)


@checked
def distinct(tokens: VisualTokens) -> Tensor:
    """Return how much each visual token differs from the others.

    See `adafv.ops.saliency.mean_cosine_distance`.

    Returns:
        (I, N).
    """
    # image by image: padding would count as tokens
    each = []
    for features, count in zip(tokens.features, tokens.counts, strict=True):
        each.append(mean_cosine_distance(features[:count]))  # (N,)
    return pad_sequence(each, batch_first=True)


@checked
def chance(count: int, seed: int, *names: str) -> Array:
    """Return random numbers, others for every image and question: the control.

    Args:
        count: N.
        seed: of all of them.
        names: of the image and the question.
    """
    # not `hash`, which differs from process to process
    entropy = [seed, *(zlib.crc32(name.encode()) for name in names)]
    return np.random.default_rng(entropy).random(count)  # (N,)


@checked
def measured_layers(count: int) -> list[int]:
    """Return the layers of a language model whose attention is measured.

    They are the second, which FastV (arXiv 2403.06764) reads, and the middle one.
    """
    # a model of one or two layers has fewer
    return sorted({min(1, count - 1), count // 2})


@checked
def llm_attention(
    model: PreTrainedModel, inputs: Mapping[str, Any], encoding: Encoding, layers: Sequence[int]
) -> list[list[Tensor]]:
    """Return the attention of a prompt's last token to its visual tokens, mean over heads.

    Every visual token is kept. The language model runs once, under its own attention function; the
    one row is computed beside it. Causal attention of the last token is taken to see everything: a
    sliding window is not observed.

    Args:
        inputs: prompts padded on the left, as `adafv.models.prompting.build_batch` makes them, with
            one image each.
        encoding: of those prompts.
        layers: indices of decoder layers.

    Returns:
        For each layer, one (N,) fp32 tensor per image; the rest of the row's mass is on text.
    """
    decoder: Any = model.get_decoder()
    # attention may be in any module of a layer
    layer_of: dict[nn.Module, int] = {}
    for i in layers:
        for module in layers_of(decoder)[i].modules():
            layer_of[module] = i
    real = encoding.prompt.mask.to(model.device)  # (B, L)
    rows: dict[int, Tensor] = {}

    def keep_last_row(shown: Shown) -> None:
        if shown.module in layer_of:
            last = shown.query[:, :, -1:]  # (B, H, 1, D)
            found = attention_rows(
                last, shown.key, shown.scale, real[:, None], shown.softcap, shown.sinks
            )  # (B, 1, L)
            rows[layer_of[shown.module]] = found[:, 0]  # (B, L)

    # one prefill shows all layers
    with observe(decoder, keep_last_row):
        model(**NoPruning().prune(model, inputs, encoding), use_cache=False, logits_to_keep=1)

    # of a row, the columns of an image's visual tokens; newlines are none
    columns = []
    for span, patch_indices in zip(encoding.spans, encoding.patch_indices, strict=True):
        columns.append(span.positions.to(patch_indices.device)[patch_indices])  # (N,)

    attention = []
    for i in layers:
        own = []
        for span, positions in zip(encoding.spans, columns, strict=True):
            own.append(rows[i][span.row, positions])  # (N,)
        attention.append(own)
    return attention
