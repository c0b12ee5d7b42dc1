"""The code that AdaFV's authors released, faults included: for reproducing published numbers."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adafv.core.pruner import BudgetError, Selection, one_of
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.adafv import AdaFV

__all__ = ["AdaFVReleased"]


@dataclass(kw_only=True)
class AdaFVReleased(AdaFV):
    """github.com/JiayiV/AdaV as released, for reproduction. Use `adafv` for anything else.

    What it does otherwise than the paper, and than every invariant of this library:

    - K is cut to 2 · floor(floor(K / 2) / crops) · crops;
    - the salient tokens of crop c are taken from the thumbnail, c places further on;
    - the reserve of the saliency list comes from the first crops, since the lists are joined, not
      merged;
    - the mixture weighs what the lists capture beyond their reserves alone;
    - a token on both lists is fed twice, so fewer than K different tokens are read.

    Departure: the patches that pad a tile are no candidates and take no part in the softmax, since
    the model's own packing cuts them off: images that fill their tiles keep the authors' tokens,
    others what they would keep without the padding (99.9 % on random tokens; where padding scores
    as high as the image, 72 % at 4:3 and 53 % at 2:1). Should it take a patch of the padding all
    the same, the thumbnail's last token stands in.
    Departure: a share `keep` is one of the tokens that the model reads, not of 576 for each
    crop: pass `tokens` for their K.

    Raises:
        ValueError: a budget of fewer than two tokens per crop, for which the released code keeps
            nothing.
    """

    mass: Literal["whole", "beyond"] = "beyond"

    name = "adafv_released"
    exact = False
    paper = "arXiv 2501.09532, released code"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("mass", self.mass, "beyond")

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        relevance, saliency = self.score(tokens), tokens.saliency
        kept = []
        for i, (coordinates, k) in enumerate(zip(tokens.coordinates, budget, strict=True)):
            count = len(coordinates)
            if k == count:
                kept.append(torch.arange(count, device=relevance.device))
            else:
                kept.append(self._pick(relevance[i, :count], saliency[i, :count], coordinates, k))
        return Selection(kept)

    def _pick(
        self, relevance: Tensor, saliency: Tensor, coordinates: Tensor, budget: int
    ) -> Tensor:
        crop, place, token = (x.to(relevance.device) for x in uncut(coordinates))
        crops = int(crop.max()) + 1
        per_crop = budget // 2 // crops
        if per_crop == 0:
            raise BudgetError(
                f"adafv_released keeps nothing of {budget} tokens over {crops} crops: pass tokens >= {2 * crops}"
            )
        total = 2 * per_crop * crops
        scores, relevant = _descending(relevance, total)

        values, places = [], []
        for c in range(crops):
            own = saliency[crop == c]
            top, best = _descending(own, 2 * per_crop)
            values.append(top)
            places.append(place[crop == c][best] + c)
        value, salient = torch.cat(values), token[torch.cat(places)]

        sure = int(self.reserve * total)
        masses, order = _descending(value[sure:], total)
        k_t, k_v = _split(scores[sure:], masses, total - 2 * sure)
        parts = [relevant[: sure + k_t], salient[:sure], salient[sure:][order[:k_v]]]
        return torch.cat(parts).sort().values


def uncut(coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the tokens of an image lie in crops that no padding was cut from, each as large as the
    first.

    Returns:
        (N,) the crop of each token, counted from 0; (N,) its place in it; and (crops · places,) the
        token at each place
        of one crop after the other, the first crop's last token where there is none.
    """
    crop = coordinates[:, 0] - coordinates[:, 0].min()
    height, width = (
        coordinates[crop == 0, 1:].amax(0) - coordinates[crop == 0, 1:].amin(0) + 1
    ).tolist()
    place = coordinates[:, 1] % height * width + coordinates[:, 2] % width
    size = height * width
    token = torch.full(((int(crop.max()) + 1) * size,), int((crop == 0).nonzero()[-1]))
    token[crop * size + place] = torch.arange(len(coordinates))
    return crop, place, token


def _descending(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest values, at most `count`, and where they are; of equal ones the first."""
    values, indices = x.sort(descending=True, stable=True)
    return values[:count], indices[:count]


def _split(first: Tensor, second: Tensor, total: int) -> tuple[int, int]:
    """k_1 + k_2 = total with the largest product of prefix sums."""
    sums = [torch.cat([x.new_zeros(1), x[:total].cumsum(0)]) for x in (first, second)]
    low, high = max(0, total - len(sums[1]) + 1), min(total, len(sums[0]) - 1)
    k = torch.arange(low, high + 1, device=first.device)
    best = int(k[(sums[0][k] * sums[1][total - k]).argmax()])
    return best, total - best
