"""SFPruner: what stands out and answers the question, and no better token says, in one step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.nested import ScoringPruner
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.cosine import cosines
from adafv.ops.precision import rounded
from adafv.ops.relevance import mean_relevance
from adafv.ops.saliency import min_max

__all__ = ["SFPruner"]

BITS = 40  # behind the point of a leverage: copies of a token tie
LEAST = 1e-6  # ridge: below it G + λ I may not be positive definite as its cosines are rounded
TINY = 1e-12  # of a ridge where no token weighs anything


@dataclass(kw_only=True)
class SFPruner(ScoringPruner):
    """Keeps tokens of high weighted leverage that resemble none of higher leverage.

    Jouwon Song et al., "Structured Redundancy Modeling for Efficient Visual Token Pruning in
    High-Resolution MLLMs", ECCV 2026, arXiv 2607.23046. Semantic guidance: each token weighs its
    relevance times its saliency. Semantics-guided ridge leverage: with the root of the weight on
    each row of V, τ_i = v_iᵀ (VᵀV + λ I)⁻¹ v_i, which is low for a token whose directions many
    others have. Ranking-based directional masking: times 1 - the largest cosine with a token of
    higher τ, on ties of a lower index. The K highest are kept; all of it is a few matrix products.

    Neither the full paper nor code of it was at hand: these are its three stages as its abstract
    and its project page name them, with the formulas of a summary at second hand. No released code
    was available to compare with, and what follows is ours.
    Departure: relevance is the mean cosine of the token with the input embeddings of the words;
    relevance and saliency are min-max normalised over the image. Without a word all are as
    relevant.
    Departure: rows of V have length 1 before they are weighted, and λ is `ridge` times the mean
    weight, so that it means the same for every image and model.
    Departure: a negative cosine masks nothing.

    Args:
        ridge: λ in mean weights (ours), 1e-6 or more.
    """

    ridge: float = 1.0

    name = "sfpruner"
    paper = "ECCV 2026, arXiv 2607.23046"
    cubic = True
    signals = frozenset({SALIENCY})
    needs_text = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not LEAST <= self.ridge < float("inf"):
            raise ValueError(
                f"ridge={self.ridge} is not in reach of fp64: pass {LEAST} or more, e.g. 1"
            )

    def score(self, tokens: VisualTokens) -> Tensor:
        """Return leverage times what no token of higher leverage says already (I, N)."""
        assert tokens.text is not None
        assert tokens.text_mask is not None
        cosine = cosines(tokens.features, tokens.features)  # (I, N, N)

        # semantic guidance: relevance times saliency
        relevance = mean_relevance(tokens.text, tokens.text_mask, tokens.features, tokens.mask)
        weight = relevance * min_max(tokens.saliency, tokens.mask)  # (I, N)

        # semantics-guided ridge leverage
        leverage = _leverage(cosine, weight, self._lambda(weight, tokens.mask))  # (I, N)
        leverage = leverage.masked_fill(~tokens.mask, -1)

        # ranking-based directional masking: better tokens mask those that resemble them
        order = leverage.argsort(dim=1, descending=True, stable=True)  # (I, N)
        rank = order.argsort(dim=1)
        better = rank[:, None] < rank[:, :, None]  # (I, N, N) column before row
        masked_by = (cosine * better).amax(2).clamp(min=0)  # (I, N)
        return leverage * (1 - masked_by)

    def _lambda(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Return the ridge of each image (I, 1) for the weights (I, N) of its tokens."""
        mean = weight.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return (self.ridge * mean).clamp(min=TINY)


def _leverage(cosine: Tensor, weight: Tensor, ridge: Tensor) -> Tensor:
    """Return v_iᵀ (VᵀV + λ I)⁻¹ v_i of every weighted row v_i.

    It is the diagonal of G (G + λ I)⁻¹ = I - λ (G + λ I)⁻¹, with G = V Vᵀ.

    Args:
        cosine: (I, N, N) of the rows before they are weighted.
        weight: (I, N), whose root is on each row.
        ridge: (I, 1) λ.

    Returns:
        (I, N), 0 to 1.
    """
    root = weight.sqrt()
    kernel = root[:, :, None] * cosine * root[:, None]  # (I, N, N)
    kernel.diagonal(dim1=1, dim2=2).add_(ridge)

    # with L of L Lᵀ = G + λ I, the diagonal of the inverse is the squared lengths in L⁻¹
    factor = torch.linalg.cholesky_ex(kernel).L
    eye = torch.eye(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye.expand_as(kernel), upper=False)
    leverage = 1 - ridge * inverse.square().sum(1)
    return rounded(leverage, BITS)
