"""The code that AdaFV's authors released, faults included: for reproducing published numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.encoding import VisualTokens
from adafv.methods.adafv import AdaFV
from adafv.pruner import BudgetError, Selection

__all__ = ["AdaFVReleased"]


@dataclass(kw_only=True)
class AdaFVReleased(AdaFV):
    """github.com/JiayiV/AdaV as released, for reproduction. Use `adafv` for anything else.

    What it does otherwise than the paper, and than every invariant of this library:

    - K is cut to 2 · floor(floor(K / 2) / crops) · crops;
    - the salient tokens of crop c are taken from the thumbnail, c places further on;
    - the reserve of the saliency list comes from the first crops, since the lists are joined, not merged;
    - a token on both lists is fed twice, so fewer than K different tokens are read.

    Raises:
        ValueError: a budget of fewer than two tokens per crop, for which the released code keeps nothing.
    """

    name = "adafv_released"
    exact = False
    paper = "arXiv 2501.09532, released code"

    def select(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        relevance, saliency = self.score(tokens), tokens.saliency
        kept = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            if k == count:
                kept.append(torch.arange(count, device=relevance.device))
            else:
                crop = tokens.where[i][:, 0].to(relevance.device)
                kept.append(self._select(relevance[i, :count], saliency[i, :count], crop, k))
        return Selection(kept)

    def _select(self, relevance: Tensor, saliency: Tensor, crop: Tensor, budget: int) -> Tensor:
        crops = int(crop.max()) + 1
        per_crop = budget // 2 // crops
        if per_crop == 0:
            raise BudgetError(
                f"adafv_released keeps nothing of {budget} tokens over {crops} crops: pass tokens >= {2 * crops}"
            )
        total = 2 * per_crop * crops
        relevant = relevance.topk(total)

        values, places = [], []
        for c in range(crops):
            own = saliency[crop == c]
            top = own.topk(min(2 * per_crop, len(own)))
            values.append(top.values)
            places.append(top.indices + c)
        value, place = torch.cat(values), torch.cat(places)

        sure = int(self.reserve * total)
        rest = value[sure:].sort(descending=True)
        k_t, k_v = _split(relevant.values[sure:], rest.values, total - 2 * sure)
        parts = [relevant.indices[: sure + k_t], place[:sure], place[sure:][rest.indices[:k_v]]]
        return torch.cat(parts).clamp(max=len(relevance) - 1).sort().values


def _split(first: Tensor, second: Tensor, total: int) -> tuple[int, int]:
    """k_1 + k_2 = total with the largest product of prefix sums."""
    sums = [torch.cat([x.new_zeros(1), x[:total].cumsum(0)]) for x in (first, second)]
    low, high = max(0, total - len(sums[1]) + 1), min(total, len(sums[0]) - 1)
    k = torch.arange(low, high + 1, device=first.device)
    best = int(k[(sums[0][k] * sums[1][total - k]).argmax()])
    return best, total - best
