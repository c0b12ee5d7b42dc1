"""SCOPE: what stands out and covers what is not covered yet."""

from dataclasses import dataclass

from torch import Tensor

from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods._greedy import GreedyPruner
from adafv.ops.cosine import pairwise_cosines
from adafv.ops.coverage import Gains, coverage

__all__ = ["Scope"]


@dataclass(kw_only=True)
class Scope(GreedyPruner):
    """Keeps salient tokens that resemble many tokens which none of those kept resembles.

    Jinhong Deng et al., "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodel
    LLMs", NeurIPS 2025, arXiv 2510.24214. The coverage of a set S is sum_i max_{j in S} cos(i, j),
    and a negative cosine covers nothing; each pick has the largest gain in coverage times
    saliency^alpha.
    Departure: the cosines are those of the visual tokens, after the projector; the authors' script
    compares the tower's hidden states before it.
    Departure: one budget for all crops, where the authors' script has one for each
    (`crops="each"`).

    Args:
        alpha: weight of the saliency (authors' code: 1); 0: coverage alone.
    """

    alpha: float = 1.0

    name = "scope"
    paper = "arXiv 2510.24214"
    stepwise = True
    signals = frozenset({SALIENCY})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(
                f"alpha={self.alpha} is not a weight of the saliency: pass 0 or more, e.g. 1"
            )

    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """Yield each token's gain in coverage times saliency^alpha, pick after pick."""
        # a negative cosine covers nothing
        columns = pairwise_cosines(tokens.features, then=Tensor.relu_)  # (I, N, N)
        return coverage(columns, tokens.saliency.double() ** self.alpha)
