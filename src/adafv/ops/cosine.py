"""Cosines between text tokens and visual tokens, and of visual tokens with each other."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.ops.precision import exact
from adafv.utils.checks import checked

__all__ = ["cosines", "pairwise_cosines", "product", "standardised_cosines", "unit", "word_cosines"]

CHUNK = 8192  # visual tokens in fp32 at a time: a whole video would be a second copy of itself
UNIT = 2.0**40  # cosines are multiples of its inverse
STRIP = 192  # rows of a matrix at a time: they stay in the cache
TINY = 1e-12  # as in `F.normalize`
LEAST_DEVIATION = 1e-6  # a word that resembles all tokens alike stands out nowhere


@checked
@exact
def word_cosines(text: Tensor, visual: Tensor) -> Tensor:
    """Compute the cosine of every word with every visual token, in fp32 whatever the dtype.

    The visual tokens, the one large tensor, go into the matrix product as they are; their lengths
    divide the result. Of tokens in half precision no more than `CHUNK` are held in fp32 at a time.

    Args:
        text: (B, M, D).
        visual: (B, N, D).

    Returns:
        (B, M, N), 0 where a token is 0.
    """
    words = F.normalize(text.float(), dim=-1)  # (B, M, D)
    products = [words @ part.float().mT for part in visual.split(CHUNK, dim=1)]
    product = products[0] if len(products) == 1 else torch.cat(products, dim=-1)  # (B, M, N)
    length = torch.linalg.vector_norm(visual, dim=-1, dtype=torch.float32)  # (B, N)
    return product.div_(length.clamp_(min=TINY)[:, None])


@checked
@exact
def standardised_cosines(text: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
    """Compute the cosines of every word in standard deviations from their mean over the tokens.

    A word that names something stands far above its mean at a few tokens. One that names nothing
    ("is", a template's word) resembles the many tokens of the background a little, and stands out
    nowhere.

    Args:
        text: (B, M, D).
        visual: (B, N, D).
        visual_mask: (B, N), true where `visual` is a token.

    Returns:
        (B, M, N) fp32, never NaN: 0 for a word that resembles all tokens alike, and where
        `visual_mask` is false.
    """
    cosine = word_cosines(text, visual)  # (B, M, N)
    there = visual_mask[:, None]  # (B, 1, N)
    count = there.sum(-1, keepdim=True)  # (B, 1, 1)

    mean = (cosine * there).sum(-1, keepdim=True) / count  # (B, M, 1)
    away = (cosine - mean) * there
    variance = away.square().sum(-1, keepdim=True) / count  # (B, M, 1)
    return away / variance.sqrt().clamp(min=LEAST_DEVIATION)


@checked
@exact
def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Compute the fp64 cosines of all vectors with all others, 0 where either is 0.

    They lie on a grid of 2^-40, so that thousands of them add up exactly and no pick hangs on how a
    device sums.

    Args:
        x: (…, M, D).
        y: (…, N, D).

    Returns:
        (…, M, N).
    """
    return product(unit(x), unit(y))


@checked
@exact
def pairwise_cosines(
    x: Tensor, out: Tensor | None = None, then: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Compute `cosines(x, x)`, from half of the products: the other half mirrors it.

    Args:
        x: (…, N, D).
        out: (…, N, N) fp64, to be written to. None: a new tensor.
        then: what becomes of each cosine on its own, in place: `Tensor.relu_`. None: nothing.

    Returns:
        (…, N, N).
    """
    x = unit(x)
    count = x.shape[-2]
    cosine = x.new_empty(*x.shape[:-1], count) if out is None else out  # (…, N, N)
    for start in range(0, count, STRIP):
        end = start + STRIP
        strip = product(x[..., start:end, :], x[..., start:, :])  # (…, R, N - start)
        if then is not None:
            strip = then(strip)
        cosine[..., start:end, start:] = strip
        cosine[..., end:, start:end] = strip[..., STRIP:].mT
    return cosine


@checked
@exact
def unit(x: Tensor) -> Tensor:
    """Scale vectors (…, N, D) to length 1, in fp64; those that are 0 stay 0."""
    return F.normalize(x.double(), dim=-1)


@checked
@exact
def product(x: Tensor, y: Tensor) -> Tensor:
    """Compute the `cosines` (…, M, N) of vectors (…, M, D) and (…, N, D) of length 1."""
    # a power of two changes no digit, and is cheapest on the smaller side
    return (x.mul(UNIT) @ y.mT).round_().mul_(1 / UNIT)
