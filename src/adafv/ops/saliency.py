"""Saliency: what stands out in the image, read off the attention of a layer.

`cls_attention_naive` and `received_attention_naive` say what it is in plain loops; the others do
the same for a batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.ops.precision import exact
from adafv.utils.checks import checked

__all__ = [
    "attention_rows",
    "cls_attention",
    "cls_attention_naive",
    "mean_cosine_distance",
    "min_max",
    "received_attention",
    "received_attention_naive",
]


@checked
@exact
def mean_cosine_distance(visual: Tensor) -> Tensor:
    """Return 1 - the mean cosine of each visual token with all tokens of its image.

    Stands in for the saliency of towers whose attention cannot be observed. (The attention of the
    tokens to each other is no use: it is highest for the background, which resembles itself most;
    see `benchmarks/analysis`, Fig. 2.)

    Args:
        visual: (N, D).

    Returns:
        (N,) fp32, 0 to 2.
    """
    unit = F.normalize(visual.float(), dim=-1)  # (N, D)
    mean = unit @ unit.mean(0)  # the mean of the cosines is the cosine with the mean
    return (1 - mean).clamp(min=0)


@checked
def min_max(scores: Tensor, mask: Tensor) -> Tensor:
    """Return scores from 0 to 1 over the tokens of each image, in fp64.

    Args:
        scores: (I, N).
        mask: (I, N), true where there is a token.

    Returns:
        (I, N); 0 where an image's tokens have one score, and for padding.
    """
    scores = scores.double()
    padding = mask.logical_not()
    low = scores.masked_fill(padding, torch.inf).amin(1, keepdim=True)  # (I, 1)
    high = scores.masked_fill(padding, -torch.inf).amax(1, keepdim=True)
    normalised = (scores - low) / (high - low)
    return normalised.masked_fill(padding | (high <= low), 0)


@checked
def cls_attention_naive(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Compute a_v of one image, head by head: what CLS attends to.

    Args:
        query: (H, 1 + P, head_dim) of one layer, CLS first.
        key: (H, 1 + P, head_dim).
        scale: the layer's factor on query · key.

    Returns:
        (P,) fp32.
    """
    total = torch.zeros(key.shape[1])  # (1 + P,)
    for query_of_head, key_of_head in zip(query.float(), key.float(), strict=True):
        cls = query_of_head[0]  # (head_dim,)
        total += (key_of_head @ cls * scale).softmax(0)
    mean_over_heads = total / len(query)
    return mean_over_heads[1:]  # the patches alone


@checked
@exact
def cls_attention(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Return the attention of the CLS token to every patch, the saliency a_v of the paper.

    One row of the attention map, mean over heads. See `cls_attention_naive`.

    Args:
        query: (B, H, 1 + P, head_dim) of one layer, CLS first.
        key: (B, H, 1 + P, head_dim).
        scale: the layer's factor on query · key.

    Returns:
        (B, P) fp32. The softmax runs over CLS and patches, so a row sums to less than 1.
    """
    row = (query[:, :, :1].float() * scale) @ key.float().mT  # (B, H, 1, 1 + P)
    mean_over_heads = row.softmax(-1).mean(1)  # (B, 1, 1 + P)
    return mean_over_heads[:, 0, 1:]


@checked
@exact
def attention_rows(
    query: Tensor,
    key: Tensor,
    scale: float,
    sees: Tensor,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Compute some rows of a layer's attention map, mean over heads.

    Args:
        query: (…, H, M, head_dim).
        key: (…, key heads, N, head_dim); each key head serves as many query heads as there are for
            it.
        scale: the layer's factor on query · key.
        sees: (…, M, N), true where a query may look.
        softcap: c of layers that bound their logits x, c · tanh(x / c). None: they don't.
        sinks: (H,) the logit of each head that stands for no token. None: there are none.

    Returns:
        (…, M, N) fp32, each row sums to 1, or to less where there are sinks.
    """
    grouped = query.float().unflatten(-3, (key.shape[-3], -1))  # (…, key heads, group, M, head_dim)
    logits = (grouped * scale) @ key.float().mT.unsqueeze(-3)  # (…, key heads, group, M, N)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(~sees[..., None, None, :, :], -torch.inf)
    if sinks is not None:
        # one more column, which is cut off again
        sink = sinks.float().view(*logits.shape[-4:-2], 1, 1).expand(*logits.shape[:-1], 1)
        logits = torch.cat([logits, sink], dim=-1)
    rows = logits.softmax(-1)[..., : key.shape[-2]]
    return torch.mean(rows, dim=(-4, -3))  # (…, M, N)


@checked
def received_attention_naive(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Compute the attention that each patch of one image receives, head by head, query by query.

    Args:
        query: (H, P, head_dim) of one layer.
        key: (H, P, head_dim).
        scale: the layer's factor on query · key.

    Returns:
        (P,) fp32, mean over heads and queries.
    """
    total = torch.zeros(key.shape[1])  # (P,)
    for queries, keys in zip(query.float(), key.float(), strict=True):
        for one in queries:
            total += (keys @ one * scale).softmax(0)
    return total / (query.shape[0] * query.shape[1])


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
    """Compute the attention every token receives, mean over heads and queries that may look at it.

    The saliency of towers that have no CLS. See `received_attention_naive`.

    Args:
        query: (B, H, P, head_dim) of one layer.
        key: (B, H, P, head_dim).
        scale: the layer's factor on query · key.
        mask: (B, 1, P, P), true or 0 where a query may look; or (B, P), true or 1 where a patch is
            no padding. Images packed into one sequence are blocks on its diagonal. A padded query
            doesn't count. None: all see all.
        heads: "mean" of them, or "max", the strongest for each query.
        chunk: queries per step; memory is B · H · chunk · P.

    Returns:
        (B, P) fp32, 0 for padding; without a mask each row of a mean sums to 1.
    """
    count = query.shape[2]
    key = key.float().mT  # (B, H, head_dim, P)
    total = key.new_zeros(key.shape[0], key.shape[-1])  # (B, P)
    seen = torch.zeros_like(total, dtype=torch.long)  # (B, P) by how many queries

    # The whole map of a large image doesn't fit: some queries at a time.
    for start in range(0, count, chunk):
        end = min(start + chunk, count)
        logits = (query[:, :, start:end].float() * scale) @ key  # (B, H, chunk, P)
        if mask is not None:
            visible = _visible(mask, start, end)  # (B, 1, chunk, P)
            logits = logits.masked_fill(~visible, -torch.inf)
            seen += visible.sum((1, 2))
        attention = logits.softmax(-1).nan_to_num()  # NaN: the row of a padded query
        over_heads = attention.mean(1) if heads == "mean" else attention.amax(1)  # (B, chunk, P)
        total += over_heads.sum(1)

    if mask is None:
        return total / count
    return total / seen.clamp(min=1)


def _visible(mask: Tensor, start: int, end: int) -> Tensor:
    """Bring some rows of either kind of mask to (B, 1, rows, P): where one that is real may look.

    Args:
        mask: see `received_attention`.
        start, end: queries whose rows are wanted.
    """
    if mask.dim() == 2:
        mask = mask[:, None, None].expand(-1, 1, end, -1)  # (B, 1, end, P)
    rows = mask[:, :, start:end]  # (B, 1, rows, P)
    rows = rows >= 0 if rows.is_floating_point() else rows.bool()

    # a query that may not look at itself is padding
    return rows & rows.diagonal(offset=start, dim1=-2, dim2=-1)[..., None]
