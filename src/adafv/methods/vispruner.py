"""VisPruner: what stands out, and the rest without its duplicates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner, Selection
from adafv.core.signals import HIDDEN, SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.cosine import cosines
from adafv.utils.checks import checked

__all__ = ["VisPruner"]

PER_ROUND = 8


@checked
@dataclass(kw_only=True)
class VisPruner(Pruner):
    """Keeps the most salient tokens and, of the rest, those that resemble no other.

    Qizhe Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token
    Pruning in VLMs", ICCV 2025, arXiv 2412.01818. floor(important · K) tokens stay for their
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.important <= 1:
            raise ValueError(
                f"important={self.important} is not a share of the budget: pass 0 to 1"
            )

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        hidden, kept = tokens.signals[HIDDEN], []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            order = tokens.saliency[i, :count].argsort(descending=True, stable=True)
            sure = int(k * self.important)
            important, rest = order[:sure], order[sure:]
            kept.append(
                torch.cat([important, rest[_distinct(hidden[i, rest], k - sure)]]).sort().values
            )
        return Selection(kept)


def _distinct(features: Tensor, count: int) -> Tensor:
    """Which `count` of (R, d) features are left when duplicates are dropped, round by round."""
    similarity = cosines(features, features)
    left = torch.arange(len(features) if count else 0, device=features.device)
    while len(left) > count:
        first, second = left[::2], left[1::2]
        drop = min(PER_ROUND, len(left) - count, len(first))
        duplication = similarity[first[:, None], second].amax(1)
        by_duplication = first[duplication.argsort(stable=True).flip(0)]
        left = torch.cat([by_duplication[drop:], second])
    return left
