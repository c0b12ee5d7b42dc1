"""Cosines between text tokens and visual tokens, and of visual tokens with each other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.ops.precision import exact
from adafv.utils.checks import checked

__all__ = ["cosines", "standardised_cosines", "word_cosines"]

CHUNK = 8192


GRID = 2.0**40


TINY = 1e-12  # as in `F.normalize`


@checked
@exact
def word_cosines(text: Tensor, visual: Tensor) -> Tensor:
    """Cosine of every word with every visual token, in fp32 whatever the dtype of either.

    The visual tokens, the one large tensor, go into the matrix product as they are; their lengths
    divide the result. Of tokens in half precision no more than `CHUNK` are held in fp32 at a time.

    Args:
        text: (B, M, D). visual: (B, N, D).

    Returns:
        (B, M, N), 0 where a token is 0.
    """
    words = F.normalize(text.float(), dim=-1)
    products = [words @ part.float().mT for part in visual.split(CHUNK, dim=1)]
    length = torch.linalg.vector_norm(visual, dim=-1, dtype=torch.float32).clamp_(min=TINY)
    return (products[0] if len(products) == 1 else torch.cat(products, dim=-1)).div_(
        length[:, None]
    )


@checked
@exact
def standardised_cosines(text: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
    """Cosine of every word with every visual token, in standard deviations from the word's mean
    over the tokens.

    A word that names something stands far above its mean at a few tokens. One that names nothing
    ("is", a template's word) resembles the many tokens of the background a little, and stands out
    nowhere.

    Args:
        text: (B, M, D). visual: (B, N, D). visual_mask: (B, N), true where `visual` is a token.

    Returns:
        (B, M, N) fp32, never NaN: 0 for a word that resembles all tokens alike, and where
        `visual_mask` is false.
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

    They lie on a grid of 2^-40, so that thousands of them add up exactly and no pick hangs on how a
    device sums.
    """
    cosine = F.normalize(x.double(), dim=-1) @ F.normalize(y.double(), dim=-1).mT
    return cosine.mul_(GRID).round_().div_(GRID)
