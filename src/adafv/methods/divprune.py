"""DivPrune: the subset whose closest pair is farthest apart."""

from dataclasses import dataclass

import torch

from adafv.core.visual_tokens import VisualTokens
from adafv.methods._greedy import GreedyPruner
from adafv.ops.cosine import cosines
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
        """Yield the distance of each token to the nearest one picked so far, pick after pick."""
        distance = 1 - cosines(tokens.features, tokens.features)  # (I, N, N)
        distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # a token is no neighbour of its own

        # first: the token whose nearest other token is farthest
        pick = yield distance.masked_fill(~tokens.mask[:, None], torch.inf).amin(2)  # (I, N)

        # then: the one farthest from all picked so far
        nearest = torch.full_like(distance[:, 0], torch.inf)  # (I, N)
        while True:
            to_pick = distance.take_along_dim(pick[..., None], dim=1)[:, 0]  # (I, N)
            nearest = nearest.minimum(to_pick)
            pick = yield nearest
