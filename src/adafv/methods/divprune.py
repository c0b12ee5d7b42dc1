"""DivPrune: the subset whose closest pair is farthest apart."""

from dataclasses import dataclass

import torch

from adafv.core.visual_tokens import VisualTokens
from adafv.methods._greedy import GreedyPruner
from adafv.ops.cosine import pairwise_cosines
from adafv.ops.coverage import Gains

__all__ = ["DivPrune"]


@dataclass(kw_only=True)
class DivPrune(GreedyPruner):
    """Keeps tokens that are far from one another, whatever stands out and whatever the question.

    Saeed Ranjbar Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal
    Models", CVPR 2025. The max-min diversity problem, greedily: with the distance 1 - cos of the
    visual tokens, first the token whose nearest other token is farthest, then again and again the
    one farthest from all picked so far.
    Departure: newline tokens of LLaVA-NeXT are not among the candidates, as for every method here.
    """

    name = "divprune"
    paper = "CVPR 2025, arXiv 2503.02175"
    stepwise = True

    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """Yield the negated cosine of each token with the nearest one picked so far.

        It ranks tokens as their distance does.
        """
        cosine = pairwise_cosines(tokens.features)  # (I, N, N)
        cosine.diagonal(dim1=1, dim2=2).fill_(-torch.inf)  # a token is no neighbour of its own
        cosine.masked_fill_(~tokens.mask[:, None], -torch.inf)  # nor is padding

        # first: the token whose nearest other token is farthest
        pick = yield -cosine.amax(2)  # (I, N)

        # then: the one farthest from all picked so far
        nearest = torch.full_like(cosine[:, 0], -torch.inf)  # (I, N)
        while True:
            to_pick = cosine.take_along_dim(pick[..., None], dim=1)[:, 0]  # (I, N)
            nearest = nearest.maximum(to_pick)
            pick = yield -nearest
