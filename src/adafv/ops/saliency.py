"""Saliency: what stands out in the image, read off the attention of a layer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.ops.precision import exact
from adafv.utils.checks import checked

__all__ = ["attention_rows", "cls_attention", "distinctness", "received_attention"]


@checked
@exact
def distinctness(visual: Tensor) -> Tensor:
    """How much a visual token differs from the others of its image: 1 - mean cosine with all of
    them.

    Stands in for the saliency of towers whose attention cannot be observed. (The attention of the
    tokens to each other is no use: it is highest for the background, which resembles itself most;
    see `benchmarks/analysis`, Fig. 2.)

    Args:
        visual: (N, D).

    Returns:
        (N,) fp32, 0 to 2.
    """
    unit = F.normalize(visual.float(), dim=-1)
    return 1 - unit @ unit.mean(0)


@checked
@exact
def cls_attention(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention of the CLS token to every patch: one row of the attention map, mean over heads.

    Args:
        query, key: (B, heads, 1 + P, head_dim) of one layer, CLS first.
        scale: the layer's factor on query · key.

    Returns:
        (B, P) fp32. The softmax runs over CLS and patches, so a row sums to less than 1.
    """
    row = (query[:, :, :1].float() * scale) @ key.float().mT
    return row.softmax(-1).mean(1)[:, 0, 1:]


@checked
@exact
def attention_rows(query: Tensor, key: Tensor, scale: float, sees: Tensor) -> Tensor:
    """Some rows of a layer's attention map, mean over heads.

    Args:
        query: (…, heads, M, head_dim).
        key: (…, key heads, N, head_dim); each key head serves as many query heads as there are for
            it.
        scale: the layer's factor on query · key.
        sees: (…, M, N), true where a query may look.

    Returns:
        (…, M, N) fp32, each row sums to 1.
    """
    grouped = query.float().unflatten(-3, (key.shape[-3], -1))
    logits = (grouped * scale) @ key.float().mT.unsqueeze(-3)
    return logits.masked_fill(~sees[..., None, None, :, :], -torch.inf).softmax(-1).mean((-4, -3))


@checked
@exact
def received_attention(
    query: Tensor,
    key: Tensor,
    scale: float,
    mask: Tensor | None = None,
    *,
    heads: str = "mean",
    chunk: int = 256,
) -> Tensor:
    """Mean attention every token receives, over heads and the queries that may look at it.

    The saliency of towers that have no CLS.

    Args:
        query, key: (B, heads, P, head_dim) of one layer.
        scale: the layer's factor on query · key.
        mask: (B, 1, P, P), true or 0 where a query may look; or (B, P), true or 1 where a patch is
            no padding. Images packed into one sequence are blocks on its diagonal. A padded query
            doesn't count. None: all see all.
        heads: "mean" of them, or "max", the strongest for each query.
        chunk: queries per step; memory is B · heads · chunk · P.

    Returns:
        (B, P) fp32, 0 for padding; without a mask each row of a mean sums to 1.
    """
    count = query.shape[2]
    if mask is not None:
        mask = (
            mask[:, None, None].expand(-1, 1, count, -1)
            if mask.dim() == 2
            else mask[..., :count, :]
        )
        mask = mask >= 0 if mask.is_floating_point() else mask.bool()
        mask = mask & mask.diagonal(dim1=-2, dim2=-1)[..., None]
    key = key.float().mT
    total = key.new_zeros(key.shape[0], key.shape[-1])
    for start in range(0, count, chunk):
        logits = (query[:, :, start : start + chunk].float() * scale) @ key
        if mask is not None:
            logits = logits.masked_fill(~mask[:, :, start : start + chunk], -torch.inf)
        attention = logits.softmax(-1).nan_to_num()
        total += (attention.mean(1) if heads == "mean" else attention.amax(1)).sum(1)
    return total / (count if mask is None else mask.sum((1, 2)).clamp(min=1))
