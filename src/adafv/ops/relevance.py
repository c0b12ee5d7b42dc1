"""Relevance: how strongly the question points at each visual token, before any layer of the LLM.

`text_to_image_attention_naive` reads like section 3.2 of the paper (arXiv 2501.09532); the others
do the same for a batch.
"""

import math

import torch
from torch import Tensor

from adafv.ops.cosine import cosines, word_cosines
from adafv.ops.precision import exact, rounded
from adafv.utils.checks import checked

__all__ = [
    "mean_relevance",
    "spread",
    "text_to_image_attention",
    "text_to_image_attention_naive",
    "word_attention",
]

CELLS = 24  # rows and columns of the raster on which relevance is spread
BITS = 40  # behind the point of a relevance, so that sums hang on no order
LEAST = 1e-6  # what the least relevant token has of the range, as in the code of CDPruner


@checked
def text_to_image_attention_naive(
    text: Tensor, visual: Tensor, *, temperature: float = 0.01
) -> list[float]:
    """Compute a_t of one image in plain loops, as the paper says.

    Args:
        text: (M, D) input embeddings of the question's text tokens.
        visual: (N, D) visual tokens after the projector.
        temperature: τ, the divisor of the cosines.

    Returns:
        a_t, one number for each of the N visual tokens.
    """
    relevance = [0.0] * len(visual)
    for word in text.double():
        # S = cos(T, V): T2I similarity, one row of it
        similarity = []
        for token in visual.double():
            similarity.append(float(word @ token / (word.norm() * token.norm())))

        # A = softmax(S / τ): T2I attention. Cosines of a word lie close together; the temperature
        # makes the attention as peaked as that of a vision tower.
        highest = max(similarity)
        weights = [math.exp((s - highest) / temperature) for s in similarity]
        total = sum(weights)

        # a_t[j]: the strongest word for each visual token
        for j, weight in enumerate(weights):
            relevance[j] = max(relevance[j], weight / total)
    return relevance


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
    """Measure how strongly the words of a question point at each visual token.

    Cosine of every word embedding with every visual token, a softmax over the visual tokens at
    `temperature`, then the maximum over the words (AdaFV, arXiv 2501.09532, section 3.2). The
    temperature makes the result as peaked as the attention of a vision tower.

    Args:
        text: (B, M, D) input embeddings of the question.
        visual: (B, N, D) visual tokens after the projector.
        text_mask: (B, M), true where `text` is a text token. None: everywhere.
        visual_mask: (B, N), true where `visual` is a token. None: everywhere.
        temperature: divisor of the cosines.
        center: subtract the mean of the words from `text` and of the tokens from `visual` first
            (paper: no).
        top: mean of the `top` strongest words instead of the strongest alone (paper: 1).

    Returns:
        (B, N) fp32, non-negative, never NaN; 0 where `visual_mask` is false or a prompt has no
        word.
    """
    if text_mask is None:
        text_mask = text.new_ones(text.shape[:2], dtype=torch.bool)
    if visual_mask is None:
        visual_mask = visual.new_ones(visual.shape[:2], dtype=torch.bool)
    attention = word_attention(
        text, text_mask, visual, visual_mask, temperature=temperature, center=center
    )  # (B, M, N)

    # Reduce over the words.
    if attention.shape[1] == 0:
        return attention.sum(1)  # (B, N) of zeros: there is no maximum of nothing
    if top == 1:
        return attention.amax(1)  # (B, N)
    top = min(top, attention.shape[1])
    strongest = attention.topk(top, dim=1).values.sum(1)  # (B, N)
    return strongest / text_mask.sum(1, keepdim=True).clamp(1, top)


@checked
@exact
def word_attention(
    text: Tensor,
    text_mask: Tensor,
    visual: Tensor,
    visual_mask: Tensor,
    *,
    temperature: float,
    center: bool,
) -> Tensor:
    """Return the attention of each word of a question to the visual tokens, A = softmax(S / τ).

    Args: see `text_to_image_attention`.

    Returns:
        (B, M, N) fp32; a word's row sums to 1, 0 where either mask is false.
    """
    if center:
        text = _centered(text.float(), text_mask)
        visual = _centered(visual.float(), visual_mask)

    # T2I similarity, sharpened by the temperature
    logits = word_cosines(text, visual).div_(temperature)  # (B, M, N)
    logits = logits.masked_fill_(~visual_mask[:, None], -torch.inf)

    # T2I attention; a row without any visual token is NaN after the softmax
    attention = logits.softmax(-1).nan_to_num_()
    return attention.mul_(text_mask[..., None])


@checked
@exact
def mean_relevance(text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
    """Return the mean cosine of each visual token with the words, min-max normalised.

    Args: see `text_to_image_attention`.

    Returns:
        (B, N) fp64, from next to 0 to 1 over each image; 1 everywhere where the question tells no
        token from another, or has no word.
    """
    is_word = text_mask[..., None]  # (B, M, 1)
    total = (cosines(text, visual) * is_word).sum(1)  # (B, N)
    mean = total / is_word.sum(1).clamp(min=1)

    # min-max normalised over the image
    low = mean.masked_fill(~visual_mask, torch.inf).amin(1, keepdim=True)  # (B, 1)
    high = mean.masked_fill(~visual_mask, -torch.inf).amax(1, keepdim=True)
    return ((mean - low + LEAST) / (high - low)).where(high > low, 1)


@checked
@exact
def spread(relevance: Tensor, places: Tensor, mask: Tensor, width: float) -> Tensor:
    """Average relevance around each token, with a Gaussian over the image.

    Tokens are gathered in a raster of 24 × 24 cells of the image first, so that time and memory
    grow with N.

    Args:
        relevance: (B, N), 0 to 1.
        places: (B, N, 2) y and x of each token, between 0 and 1, see `adafv.ops.grid.places`.
        mask: (B, N), true where there is a token.
        width: standard deviation of the Gaussian, as a share of the image's height and width.

    Returns:
        (B, N) fp64; 0 where `mask` is false.
    """
    # how much relevance, and how many tokens, each cell holds
    row, column = (places * CELLS).long().clamp(0, CELLS - 1).unbind(-1)  # (B, N) each
    amounts = torch.stack([relevance.double(), torch.ones_like(relevance).double()], dim=1)
    amounts = rounded(amounts * mask[:, None], BITS)  # (B, 2, N)
    cell = (row * CELLS + column)[:, None].expand_as(amounts)
    raster = amounts.new_zeros(*amounts.shape[:2], CELLS * CELLS).scatter_add_(2, cell, amounts)
    raster = raster.unflatten(2, (CELLS, CELLS))  # (B, 2, rows, columns)

    # weigh the cells by their distance: a Gaussian is one of rows times one of columns
    middles = (torch.arange(CELLS, device=places.device) + 0.5) / CELLS
    away = places[..., None] - middles  # (B, N, 2, 24)
    down, across = away.div(width).square().div(-2).exp().unbind(2)  # (B, N, 24) each
    around = ((down[:, None] @ raster) * across[:, None]).sum(-1)  # (B, 2, N)

    # a mean over tokens: near the edge of an image there are fewer
    total, count = around.unbind(1)
    mean: Tensor = total / count.clamp(min=LEAST)
    return mean.masked_fill(~mask, 0.0)


def _centered(x: Tensor, mask: Tensor) -> Tensor:
    """Subtract the mean of the tokens (B, L, D) that `mask` (B, L) names."""
    count = mask.sum(1)[:, None, None].clamp(min=1)  # (B, 1, 1)
    mean = (x * mask[..., None]).sum(1, keepdim=True) / count  # (B, 1, D)
    return x - mean
