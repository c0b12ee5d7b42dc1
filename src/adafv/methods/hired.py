"""HiRED: a budget for the thumbnail, and shares for the tiles by what the thumbnail shows of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner, Selection
from adafv.core.signals import SALIENCY, Signal
from adafv.core.visual_tokens import VisualTokens
from adafv.utils.checks import checked

__all__ = ["HiRED", "tile_of"]

CONTENT = Signal("attention", 0.0)
NO_VOTE = 1e-6


@checked
@dataclass(kw_only=True)
class HiRED(Pruner):
    """Keeps the most salient tokens of each crop; crops where more is to be seen keep more.

    Kazi Hasan Ibn Arif et al., "HiRED: Attention-Guided Token Dropping for Efficient Inference of
    High-Resolution Vision-Language Models", AAAI 2025, arXiv 2408.10945. The thumbnail gets alpha ·
    K. The tiles divide the rest in proportion to their votes: how many of the thumbnail's (1 -
    alpha) · N_0 tokens with the highest CLS attention in the first layer of the tower lie in each
    of them. An image of one crop keeps its K most salient tokens.
    Departure: shares are exact by highest averages (Sainte-Laguë): the j-th token of a tile with v
    votes has its turn at (2 j - 1) / v, and the earliest turns win. It needs one sort and no vote
    is read back from the device.
    Departure: a crop with fewer tokens than its share leaves what is over to the others, in
    proportion to their votes; a tile without votes gets something only when the others are full.
    Departure: the thumbnail's tokens vote for the tile that shows their middle, with the tiles'
    padding cut off. In the released code tiles have the votes of equal bands of the thumbnail's
    rows, which is right for grids of one column. With `crops="each"` nobody votes: every crop keeps
    its most salient tokens, as in `fastervlm`.

    Args:
        alpha: share of the budget that goes to the thumbnail (paper: 0.5).
    """

    alpha: float = 0.5

    name = "hired"
    paper = "arXiv 2408.10945"
    signals = frozenset({SALIENCY, CONTENT})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} is not a share of the budget: pass 0 to 1")

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        content, kept = tokens.signals[CONTENT], []
        for i, (coordinates, k) in enumerate(zip(tokens.coordinates, budget, strict=True)):
            crop = coordinates[:, 0]
            in_thumbnail = int((crop == 0).sum())
            share = max(
                min(int(self.alpha * k), in_thumbnail), k - (len(coordinates) - in_thumbnail)
            )
            order = _crop_by_crop(tokens.saliency[i, : len(coordinates)], crop)
            thumbnail, tiles = order[:share], order[in_thumbnail:]
            if share < k:
                tiles = tiles[self._turns(content[i], coordinates)]
            kept.append(torch.cat([thumbnail, tiles[: k - share]]).sort().values)
        return Selection(kept)

    def _turns(self, content: Tensor, coordinates: Tensor) -> Tensor:
        """In which order the tiles' tokens, tile by tile and the most salient first, are admitted.

        Without a thumbnail (the frames of a clip) all tiles have the same votes.
        """
        thumbnail = (coordinates[:, 0] == 0).nonzero()[:, 0].to(content.device, non_blocking=True)
        shown_by = tile_of(coordinates) if len(thumbnail) else thumbnail
        voters = content[thumbnail].argsort(descending=True, stable=True)[
            : int((1 - self.alpha) * len(thumbnail))
        ]
        vote = shown_by.to(content.device, non_blocking=True)[voters]
        tile, size = coordinates[coordinates[:, 0] > 0, 0].unique(return_counts=True)
        turn = torch.cat([2 * torch.arange(n) + 1 for n in size.tolist()]).to(
            content.device, non_blocking=True
        )
        tile = tile.repeat_interleave(size).to(content.device, non_blocking=True)
        votes = (vote == tile[:, None]).sum(1).double().clamp(min=NO_VOTE)
        return (turn / votes).argsort(stable=True)


def _crop_by_crop(saliency: Tensor, crop: Tensor) -> Tensor:
    """Tokens of the first crop, then of the next, the most salient first in each."""
    order = saliency.argsort(descending=True, stable=True)
    return order[crop.to(order.device, non_blocking=True)[order].argsort(stable=True)]


@checked
def tile_of(coordinates: Tensor) -> Tensor:
    """For each token of the thumbnail the tile that shows its middle."""
    in_tile = coordinates[:, 0] > 0
    thumbnail, tiles = coordinates[~in_tile, 1:], coordinates[in_tile]
    low, high = tiles[:, 1:].aminmax(dim=0)
    shape = high - low + 1
    tile = torch.zeros(*shape.tolist(), dtype=torch.long)
    tile[tuple((tiles[:, 1:] - low).T)] = tiles[:, 0]
    side = thumbnail.amax(0) + 1
    return tile[tuple(((2 * thumbnail + 1) * shape // (2 * side)).T)]
