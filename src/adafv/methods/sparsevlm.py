"""SparseVLM: the words that the image is relevant to rate it, layer after layer."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adafv.core.layerwise import LayerPruner, Raters, after_share, last_token
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.utils.checks import checked

__all__ = ["SparseVLM"]


@checked
@dataclass(kw_only=True)
class SparseVLM(LayerPruner):
    """Keeps what visually relevant words attend to, fewer after each of three layers.

    Yuan Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model
    Inference", ICML 2025, arXiv 2410.04417. Raters, before the first layer: R = mean over the
    visual tokens of softmax over the words of T · Vᵀ; a word rates if its R is at least the mean of
    R. Score of a visual token: attention it gets in the layer before the stage, mean over raters
    and heads. Stages after the layers of index 2, 6 and 15 of 32 have run, that is after 3, 7 and
    16 of them, scaled to the model; in shallow models some coincide.
    Departure: how many are kept is N · λ^s with λ from the budget, not the rank of the attention
    (paper) nor a table for four budgets (code), of which those of 192, 128, 96 and 64 tokens really
    read 206.5, 145.4, 114.1 and 82.3 a layer.
    Departure: tokens keep their positions, as in the authors' second version; in their first they
    are numbered anew.
    Departure: dropped tokens are not recycled as averages of clusters, so that the budget counts
    tokens of the image.
    Departure: only the user's own words behind the image rate, since those before it cannot see it,
    not what the chat template writes there; where there are none, the last token before the answer
    rates.
    """

    name = "sparsevlm"
    paper = "arXiv 2410.04417"
    needs_text = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.query is not None:
            raise ValueError(
                "query is given, but only words of the prompt have attention in sparsevlm: "
                "leave it out"
            )

    def stages(self, layers: int) -> list[int]:
        """Prune after three layers, as deep as the paper's in 32."""
        return after_share(layers, 3 / 32, 7 / 32, 16 / 32)

    def raters(self, encoding: Encoding) -> Raters:
        """Rank by the attention of the words to which the image is relevant."""
        tokens = encoding.tokens
        if tokens.text_mask is None or encoding.asked is None:
            raise ValueError(
                "these images are encoded without the words of their prompts, whose attention "
                "sparsevlm ranks by: encode them with the pruner itself"
            )

        # the words that can see the image: those behind it
        words = encoding.asked  # I times (M,)
        sees = torch.zeros(tokens.text_mask.shape, dtype=torch.bool)  # (I, M)
        for i, span in enumerate(encoding.spans):
            sees[i, : len(words[i])] = words[i] > span.positions[0]

        # those of them that the image is relevant to
        seeing = replace(tokens, text_mask=sees.to(tokens.device, non_blocking=True))
        found = last_token(encoding)
        for i, weight in enumerate(rating_words(seeing)):  # (I, M)
            if sees[i].any():
                found[i] = (words[i], weight[: len(words[i])])
        return found


def rating_words(tokens: VisualTokens) -> Tensor:
    """Weigh the words of each question: 1 / raters for those that rate, 0 for the others.

    Returns:
        (I, M).
    """
    assert tokens.text is not None
    assert tokens.text_mask is not None

    # R: mean over the visual tokens of softmax over the words of T · Vᵀ
    similarity = tokens.text.float() @ tokens.features.float().mT  # (I, M, N)
    similarity = similarity.masked_fill(~tokens.text_mask[..., None], -torch.inf)
    attention = similarity.softmax(1).nan_to_num() * tokens.mask[:, None]  # (I, M, N)
    relevance = attention.sum(2) / tokens.mask.sum(1, keepdim=True)  # (I, M)

    # A word rates if its R is at least the mean of R. R sums to 1 over the words; equal words all
    # rate, however the mean is rounded.
    mean = (1 - 1e-5) / tokens.text_mask.sum(1, keepdim=True)  # (I, 1)
    rates = (tokens.text_mask & (relevance >= mean)).float()
    return rates / rates.sum(1, keepdim=True).clamp(min=1)
