"""AdaFV+: words on one scale, and nothing that a better neighbour already says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.visual_tokens import VisualTokens
from adafv.methods.adafv import AdaFV
from adafv.ops.cosine import standardised_cosines
from adafv.ops.grid import grids
from adafv.ops.precision import exact

__all__ = ["AdaFVPlus"]


@dataclass(kw_only=True)
class AdaFVPlus(AdaFV):
    """AdaFV with the words of the question on one scale, and without what a better neighbour
    already says.

    Ours; both parts were chosen on the validation split. Relevance: AdaFV gives every word the same
    mass over the visual tokens, and words that name nothing spend theirs on the background. Here
    each word's cosines are standardised over the tokens first, the largest of all words counts, and
    one softmax over the tokens follows: a_t = softmax_N(max_M z / temperature). News: a large thing
    fills dozens of patches that say the same, and both lists rank them all before the first patch
    of anything else. So, in each list on its own and before the mixture, a token's score is
    multiplied by 1 - max cos(v_j, v_i) over the tokens i around it on the same grid that the list
    ranks higher. The best token of a neighbourhood keeps its score, a copy of it has none, and what
    differs from its surroundings (an edge, a letter) stays. No loop over picks; still a function of
    (V, a_v, T) and of where the tokens lie. Worth at 5 % kept, on 400 validation questions a suite
    (`benchmarks/ablation`): without the discount (`reach=0`) 18.0 points of scenes-text and 6.8 of
    scenes are lost; larger neighbourhoods add nothing.

    Args:
        temperature: of the softmax, in standard deviations.
        reach: rows and columns that a neighbourhood extends to each side; 0: no discount.
    """

    temperature: float = 0.5
    reach: int = 1

    name = "adafv+"
    paper = "ours, on arXiv 2501.09532"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reach < 0 or self.reach != int(self.reach):
            raise ValueError(
                f"reach={self.reach} is not a number of rows and columns: pass an integer of 0 or more"
            )
        if self.center or self.top != 1:
            raise ValueError(
                f"center={self.center}, top={self.top}: adafv+ standardises instead, leave both out"
            )

    def score(self, tokens: VisualTokens) -> Tensor:
        assert tokens.text is not None
        assert tokens.text_mask is not None
        standing = standardised_cosines(tokens.text, tokens.features, tokens.mask)
        standing = standing.masked_fill(~tokens.text_mask[..., None], -torch.inf)
        if standing.shape[1] == 0:
            return standing.sum(1)  # as for a prompt without a word beside others: no relevance
        return (
            (standing.amax(1) / self.temperature)
            .masked_fill(~tokens.mask, -torch.inf)
            .softmax(-1)
            .nan_to_num()
        )

    def attentions(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        lists = torch.stack(super().attentions(tokens), dim=1)
        for images, grid in _alike(tokens.coordinates) if self.reach else ():
            image, place = (x.to(lists.device, non_blocking=True) for x in (images, grid.flatten()))
            scores = lists[image[:, None], :, place].mT.unflatten(2, grid.shape)
            features = tokens.features[image[:, None], place].unflatten(1, grid.shape)
            news = scores * (1 - redundancy(features, scores, int(self.reach)))
            lists[image[:, None], :, place] = news.flatten(2).mT
        return lists[:, 0], lists[:, 1]


@exact
def redundancy(features: Tensor, scores: Tensor, reach: int) -> Tensor:
    """(I, L, H, W): the largest cosine of each token with one nearby that a list ranks higher, at
    least 0.

    Args:
        features: (I, H, W, D) of the tokens of one grid.
        scores: (I, L, H, W) of L lists. Equal scores: the earlier token is the better one.
        reach: rows and columns to each side.
    """
    features = features.float()
    length, echo = features.norm(dim=-1).clamp(min=1e-12), torch.zeros_like(scores)
    below, aside = (min(reach, side - 1) for side in scores.shape[-2:])
    for down in range(below + 1):
        above, beneath = _apart(down)
        # whole rows with whole rows: neighbours are its diagonals
        rows = features[:, above] @ features[:, beneath].mT
        rows.div_(length[:, above, :, None] * length[:, beneath, None])
        for right in range(-aside if down else 1, aside + 1):
            cosine = rows.diagonal(right, dim1=-2, dim2=-1)
            one, other = zip((above, beneath), _apart(right), strict=True)
            better = scores[..., *one] >= scores[..., *other]
            for worse, place in ((better, other), (~better, one)):
                echo[..., *place] = torch.maximum(echo[..., *place], cosine[:, None] * worse)
    return echo


def _apart(shift: int) -> tuple[slice, slice]:
    """Along one side of a grid: all places that have one `shift` further on, and the latter."""
    return slice(max(0, -shift), -shift if shift > 0 else None), slice(
        max(0, shift), min(0, shift) or None
    )


def _alike(coordinates: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and the (H, W) indices of their tokens on a grid, images of equal grids together."""
    members: dict[bytes, list[int]] = {}
    for i, place in enumerate(coordinates):
        members.setdefault(place.numpy().tobytes(), []).append(i)
    for images in members.values():
        for grid in grids(coordinates[images[0]]):
            yield torch.tensor(images), grid
