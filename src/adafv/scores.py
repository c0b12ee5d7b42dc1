"""The two signals that cost almost nothing: tensors in, tensors out."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.checks import checked

__all__ = [
    "attention_rows",
    "cls_attention",
    "cosines",
    "distinctness",
    "exact",
    "full_precision",
    "received_attention",
    "standardised_cosines",
    "text_to_image_attention",
    "word_cosines",
]

CHUNK = 8192
GRID = 2.0**40
TINY = 1e-12  # as in `F.normalize`

P = ParamSpec("P")
R = TypeVar("R")


@checked
def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """While open, autocast does not touch what is computed on a device: a score in bfloat16 would tie with others."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@checked
def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of tensors, or of visual tokens, so that autocast does not touch what it computes."""

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        device: Any = next(x.device for x in (*args, *kwargs.values()) if hasattr(x, "device"))
        with full_precision(device):
            return function(*args, **kwargs)

    return computed


@checked
@exact
def text_to_image_attention(
    text: Tensor,
    visual: Tensor,
    text_mask: Tensor | None = None,
    visual_mask: Tensor | None = None,
    *,
    temperature: float = 0.01,
    center: bool = False,
    top: int = 1,
) -> Tensor:
    """How strongly the words of a question point at each visual token, before any LLM layer.

    Cosine of every word embedding with every visual token, a softmax over the visual tokens at `temperature`, then
    the maximum over the words (AdaFV, arXiv 2501.09532, section 3.2). The temperature makes the result as peaked as
    the attention of a vision tower.

    Args:
        text: (B, M, D) input embeddings of the question.
        visual: (B, N, D) visual tokens after the projector.
        text_mask: (B, M), true where `text` is a word. None: everywhere.
        visual_mask: (B, N), true where `visual` is a token. None: everywhere.
        temperature: divisor of the cosines.
        center: subtract the mean of the words from `text` and of the tokens from `visual` first (paper: no).
        top: mean of the `top` strongest words instead of the strongest alone (paper: 1).

    Returns:
        (B, N) fp32, non-negative, never NaN; 0 where `visual_mask` is false or a prompt has no word.
    """
    text_mask = text.new_ones(text.shape[:2], dtype=torch.bool) if text_mask is None else text_mask
    visual_mask = visual.new_ones(visual.shape[:2], dtype=torch.bool) if visual_mask is None else visual_mask
    if center:
        text, visual = _centered(text.float(), text_mask), _centered(visual.float(), visual_mask)
    logits = word_cosines(text, visual).div_(temperature).masked_fill_(~visual_mask[:, None], -torch.inf)
    attention = logits.softmax(-1).nan_to_num_().mul_(text_mask[..., None])
    if attention.shape[1] == 0:
        return attention.sum(1)
    if top == 1:
        return attention.amax(1)
    top = min(top, attention.shape[1])
    strongest = attention.topk(top, dim=1).values.sum(1)
    return strongest / text_mask.sum(1, keepdim=True).clamp(1, top)


@checked
@exact
def word_cosines(text: Tensor, visual: Tensor) -> Tensor:
    """Cosine of every word with every visual token, in fp32 whatever the dtype of either.

    The visual tokens, the one large tensor, go into the matrix product as they are; their lengths divide the result.
    Of tokens in half precision no more than `CHUNK` are held in fp32 at a time.

    Args:
        text: (B, M, D). visual: (B, N, D).

    Returns:
        (B, M, N), 0 where a token is 0.
    """
    words = F.normalize(text.float(), dim=-1)
    products = [words @ part.float().mT for part in visual.split(CHUNK, dim=1)]
    length = torch.linalg.vector_norm(visual, dim=-1, dtype=torch.float32).clamp_(min=TINY)
    return (products[0] if len(products) == 1 else torch.cat(products, dim=-1)).div_(length[:, None])


@checked
@exact
def standardised_cosines(text: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
    """Cosine of every word with every visual token, in standard deviations from the word's mean over the tokens.

    A word that names something stands far above its mean at a few tokens. One that names nothing ("is", a template's
    word) resembles the many tokens of the background a little, and stands out nowhere.

    Args:
        text: (B, M, D). visual: (B, N, D). visual_mask: (B, N), true where `visual` is a token.

    Returns:
        (B, M, N) fp32, never NaN: 0 for a word that resembles all tokens alike, and where `visual_mask` is false.
    """
    cosine = word_cosines(text, visual)
    there = visual_mask[:, None]
    count = there.sum(-1, keepdim=True)
    away = (cosine - (cosine * there).sum(-1, keepdim=True) / count) * there
    deviation = (away.square().sum(-1, keepdim=True) / count).sqrt()
    return away / deviation.clamp(min=1e-6)


@checked
@exact
def cosines(x: Tensor, y: Tensor) -> Tensor:
    """(…, M, N) fp64 cosines of (…, M, D) with (…, N, D), 0 where either vector is 0.

    They lie on a grid of 2^-40, so that thousands of them add up exactly and no pick hangs on how a device sums.
    """
    cosine = F.normalize(x.double(), dim=-1) @ F.normalize(y.double(), dim=-1).mT
    return cosine.mul_(GRID).round_().div_(GRID)


def _centered(x: Tensor, mask: Tensor) -> Tensor:
    mean = (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None].clamp(min=1)
    return x - mean


@checked
@exact
def distinctness(visual: Tensor) -> Tensor:
    """How much a visual token differs from the others of its image: 1 - mean cosine with all of them.

    Stands in for the saliency of towers whose attention cannot be observed. (The attention of the tokens to each other
    is no use: it is highest for the background, which resembles itself most; see `benchmarks/analysis`, Fig. 2.)

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
        key: (…, key heads, N, head_dim); each key head serves as many query heads as there are for it.
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
    query: Tensor, key: Tensor, scale: float, mask: Tensor | None = None, *, heads: str = "mean", chunk: int = 256
) -> Tensor:
    """Mean attention every token receives, over heads and the queries that may look at it.

    The saliency of towers that have no CLS.

    Args:
        query, key: (B, heads, P, head_dim) of one layer.
        scale: the layer's factor on query · key.
        mask: (B, 1, P, P), true or 0 where a query may look; or (B, P), true or 1 where a patch is no padding. Images
            packed into one sequence are blocks on its diagonal. A padded query doesn't count. None: all see all.
        heads: "mean" of them, or "max", the strongest for each query.
        chunk: queries per step; memory is B · heads · chunk · P.

    Returns:
        (B, P) fp32, 0 for padding; without a mask each row of a mean sums to 1.
    """
    count = query.shape[2]
    if mask is not None:
        mask = mask[:, None, None].expand(-1, 1, count, -1) if mask.dim() == 2 else mask[..., :count, :]
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
