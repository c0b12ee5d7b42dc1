"""The code that AdaFV's authors released, faults included: for reproducing published numbers."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adafv.core.selection import Selection
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.adafv import AdaFV
from adafv.ops.budget import BudgetError
from adafv.utils.checks import one_of

__all__ = ["AdaFVReleased"]


@dataclass(kw_only=True)
class AdaFVReleased(AdaFV):
    """github.com/JiayiV/AdaV as released, for reproduction. Use `adafv` for anything else.

    What it does otherwise than the paper, and than every invariant of this library:

    - K is cut to 2 · floor(floor(K / 2) / crops) · crops;
    - the salient tokens of crop c are taken from the thumbnail, c positions further on;
    - the reserve of the saliency list comes from the first crops, since the lists are joined, not
      merged;
    - the mixture weighs what the lists capture beyond their reserves alone;
    - a token on both lists is fed twice, so fewer than K different tokens are read.

    Departure: the patches that pad a tile are no candidates and take no part in the softmax, since
    the model's own packing cuts them off: images that fill their tiles keep the authors' tokens,
    others what they would keep without the padding (99.9 % on random tokens; where padding scores
    as high as the image, 72 % at 4:3 and 53 % at 2:1). Should it take a patch of the padding all
    the same, the thumbnail's last token stands in.
    Departure: words are the user's own, see `AdaFV`; theirs are all that stands behind the image.
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
        one_of("repeats", self.repeats, "count")

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep what the released code keeps, image by image."""
        relevance, saliency = self.attentions(tokens)  # (I, N) each
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
        """Keep what the released code keeps of one image: (K,), ids may repeat."""
        crop, position, token = uncut(coordinates)
        crop = crop.to(relevance.device)  # (N,)
        position = position.to(relevance.device)  # (N,)
        token = token.to(relevance.device)  # (crops · positions,)

        # cut the budget to a multiple of the crops
        crops = int(crop.max()) + 1
        per_crop = budget // 2 // crops
        if per_crop == 0:
            raise BudgetError(
                f"adafv_released keeps nothing of {budget} tokens over {crops} crops: "
                f"pass tokens >= {2 * crops}"
            )
        total = 2 * per_crop * crops

        # the list of relevance
        scores, relevant = _descending(relevance, total)  # (K,)

        # the lists of saliency, crop by crop; those of crop c are found c positions further on
        values = []
        positions = []
        for c in range(crops):
            of_crop = crop == c  # (N,)
            top, best = _descending(saliency[of_crop], 2 * per_crop)
            values.append(top)
            positions.append(position[of_crop][best] + c)
        value = torch.cat(values)  # (K,)
        salient = token[torch.cat(positions)]  # (K,)

        # the reserve: the first of either list, for saliency those of the first crops
        sure = int(self.reserve * total)

        # the split of the rest, weighed by what lies beyond the reserve
        masses, order = _descending(value[sure:], total)
        k_t, k_v = _split(scores[sure:], masses, total - 2 * sure)

        # both lists as they are: a token on both is fed twice
        by_relevance = relevant[: sure + k_t]
        by_saliency = torch.cat([salient[:sure], salient[sure:][order[:k_v]]])
        return torch.cat([by_relevance, by_saliency]).sort().values


def uncut(coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Locate the tokens of an image in crops that no padding was cut from.

    Each crop is as large as the first.

    Returns:
        (N,) the crop of each token, counted from 0; (N,) its position in it; and
        (crops · positions,) the token at each position of one crop after the other, the first
        crop's last token where there is no token.
    """
    crop = coordinates[:, 0] - coordinates[:, 0].min()  # (N,)

    # no padding was cut from the first crop: its sides are those of all
    first = coordinates[crop == 0, 1:]
    height, width = (first.amax(0) - first.amin(0) + 1).tolist()
    size = height * width

    position = coordinates[:, 1] % height * width + coordinates[:, 2] % width  # (N,)
    stand_in = int((crop == 0).nonzero()[-1])
    token = torch.full(((int(crop.max()) + 1) * size,), stand_in)
    token[crop * size + position] = torch.arange(len(coordinates))
    return crop, position, token


def _descending(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest values, at most `count`, and their indices; of equal ones the first."""
    values, indices = x.sort(descending=True, stable=True)
    return values[:count], indices[:count]


def _split(first: Tensor, second: Tensor, total: int) -> tuple[int, int]:
    """Return k_1 + k_2 = total with the largest product of prefix sums."""
    zero = first.new_zeros(1)
    first_sums = torch.cat([zero, first[:total].cumsum(0)])
    second_sums = torch.cat([zero, second[:total].cumsum(0)])

    # a list may be shorter than what is to be split
    low = max(0, total - len(second_sums) + 1)
    high = min(total, len(first_sums) - 1)
    k = torch.arange(low, high + 1, device=first.device)
    best = int(k[(first_sums[k] * second_sums[total - k]).argmax()])
    return best, total - best
