"""MMR: what stands out, unless a token kept already resembles it."""

from dataclasses import dataclass

import torch

from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods._greedy import GreedyPruner
from adafv.ops.cosine import cosines
from adafv.ops.coverage import Gains
from adafv.ops.saliency import min_max

__all__ = ["MMR"]


@dataclass(kw_only=True)
class MMR(GreedyPruner):
    """Keeps salient tokens that resemble none of those kept so far.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), as UniAttn serves it in
    production with SGLang (github.com/XiangbinPeng/UniAttn, 2026; code and no paper). Saliency is
    min-max normalised over the image. The most salient token goes first, then again and again the
    one with the highest saliency - diversity · max cos, the cosine with those kept so far, of the
    visual tokens after the projector.
    Departure: the saliency is that of this package; UniAttn takes what its engine's strategy
    `attention_score` reads in the tower of Qwen3-VL.
    Departure: with several crops the minimum and the maximum are those of all of them; UniAttn
    serves a model without crops.

    Args:
        diversity: weight of the cosine (UniAttn: 0.3); 0: saliency alone.
    """

    diversity: float = 0.3

    name = "mmr"
    paper = "SIGIR 1998; XiangbinPeng/UniAttn"
    stepwise = True
    signals = frozenset({SALIENCY})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.diversity < float("inf"):
            raise ValueError(
                f"diversity={self.diversity} is not a weight of the cosine: "
                "pass 0 or more, e.g. 0.3"
            )

    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """Yield saliency less what those picked so far have of it already, pick after pick."""
        cosine = cosines(tokens.features, tokens.features)  # (I, N, N)
        relevance = min_max(tokens.saliency, tokens.mask)  # (I, N)

        # first: the most salient token
        pick = yield relevance

        # then: the largest marginal relevance
        nearest = torch.full_like(relevance, -torch.inf)  # (I, N)
        while True:
            to_pick = cosine.take_along_dim(pick[..., None], dim=1)[:, 0]  # (I, N)
            nearest = nearest.maximum(to_pick)
            pick = yield relevance - self.diversity * nearest
