"""VisPruner: what stands out, and the rest without its duplicates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.signals import HIDDEN, SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.cosine import cosines
from adafv.utils.checks import checked

__all__ = ["VisPruner"]

PER_ROUND = 8  # duplicates that a round drops, as in the authors' code


@checked
@dataclass(kw_only=True)
class VisPruner(Pruner):
    """Keeps the most salient tokens and, of the rest, those that resemble no other.

    Qizhe Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token
    Pruning in VLMs", ICCV 2025, arXiv 2412.01818. floor(important · K) tokens are kept for their
    saliency. The rest, in order of saliency, is dealt into two halves by turns; the 8 tokens of the
    first half that resemble one of the second most (cosine of the tower's features) are dropped.
    The next round deals what is left of the first half, the most similar first, and then the second
    half, until what is left fills the budget.
    Departure: one budget for all crops, where the published figures of LLaVA-NeXT have one for each
    (`crops="each"`) and the crops' padding among the candidates; so duplicates are found across
    crops, too.
    Departure: an odd number of tokens is dealt as well, the first half getting one more.

    Args:
        important: share of the budget that goes by saliency alone (paper: 0.5).
    """

    important: float = 0.5

    name = "vispruner"
    paper = "arXiv 2412.01818"
    signals = frozenset({SALIENCY, HIDDEN})
    shares = ("important",)

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the important tokens, and those of the rest that are left without duplicates."""
        kept = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            by_saliency = tokens.saliency[i, :count].argsort(descending=True, stable=True)  # (N,)

            # important tokens: the most salient
            sure = int(k * self.important)
            important = by_saliency[:sure]

            # diverse tokens: the rest without its duplicates
            rest = by_saliency[sure:]
            diverse = rest[_without_duplicates(tokens.signals[HIDDEN][i, rest], k - sure)]
            kept.append(torch.cat([important, diverse]).sort().values)
        return Selection(kept)


def _without_duplicates(features: Tensor, count: int) -> Tensor:
    """Drop duplicates of (R, d) features round by round; return the `count` that are left."""
    similarity = cosines(features, features)  # (R, R)
    left = torch.arange(len(features) if count else 0, device=features.device)
    while len(left) > count:
        # deal what is left into two halves by turns
        first = left[::2]
        second = left[1::2]

        # drop those of the first half that resemble one of the second most
        drop = min(PER_ROUND, len(left) - count, len(first))
        duplication = similarity[first[:, None], second].amax(1)  # (|first|,)
        most_duplicated_first = first[duplication.argsort(stable=True).flip(0)]

        # the next round deals the survivors first
        left = torch.cat([most_duplicated_first[drop:], second])
    return left
