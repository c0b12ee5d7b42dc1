"""Relevance: how strongly the question points at each visual token, before any layer of the LLM."""

import torch
from torch import Tensor

from adafv.ops.cosine import word_cosines
from adafv.ops.precision import exact
from adafv.utils.checks import checked

__all__ = ["text_to_image_attention"]


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

    Cosine of every word embedding with every visual token, a softmax over the visual tokens at
    `temperature`, then the maximum over the words (AdaFV, arXiv 2501.09532, section 3.2). The
    temperature makes the result as peaked as the attention of a vision tower.

    Args:
        text: (B, M, D) input embeddings of the question.
        visual: (B, N, D) visual tokens after the projector.
        text_mask: (B, M), true where `text` is a word. None: everywhere.
        visual_mask: (B, N), true where `visual` is a token. None: everywhere.
        temperature: divisor of the cosines.
        center: subtract the mean of the words from `text` and of the tokens from `visual` first
            (paper: no).
        top: mean of the `top` strongest words instead of the strongest alone (paper: 1).

    Returns:
        (B, N) fp32, non-negative, never NaN; 0 where `visual_mask` is false or a prompt has no
        word.
    """
    text_mask = text.new_ones(text.shape[:2], dtype=torch.bool) if text_mask is None else text_mask
    visual_mask = (
        visual.new_ones(visual.shape[:2], dtype=torch.bool) if visual_mask is None else visual_mask
    )
    if center:
        text, visual = _centered(text.float(), text_mask), _centered(visual.float(), visual_mask)
    logits = (
        word_cosines(text, visual).div_(temperature).masked_fill_(~visual_mask[:, None], -torch.inf)
    )
    attention = logits.softmax(-1).nan_to_num_().mul_(text_mask[..., None])
    if attention.shape[1] == 0:
        return attention.sum(1)
    if top == 1:
        return attention.amax(1)
    top = min(top, attention.shape[1])
    strongest = attention.topk(top, dim=1).values.sum(1)
    return strongest / text_mask.sum(1, keepdim=True).clamp(1, top)


def _centered(x: Tensor, mask: Tensor) -> Tensor:
    mean = (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None].clamp(min=1)
    return x - mean
