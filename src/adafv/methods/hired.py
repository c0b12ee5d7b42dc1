"""HiRED: a budget for the thumbnail, and shares for the tiles by what it shows of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.signals import SALIENCY, Signal
from adafv.core.visual_tokens import VisualTokens
from adafv.utils.checks import checked

__all__ = ["HiRED", "tile_of"]

CONTENT = Signal("attention", 0.0)
NO_VOTE = 1e-6  # a tile without votes has its turn when the others are full


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
    rows, which is right for grids of one column. In families whose tiles have no known place they
    count as one below the other. With `crops="each"` nobody votes: every crop keeps
    its most salient tokens, as in `fastervlm`.

    Args:
        alpha: share of the budget that goes to the thumbnail (paper: 0.5).
    """

    alpha: float = 0.5

    name = "hired"
    paper = "arXiv 2408.10945"
    signals = frozenset({SALIENCY, CONTENT})
    shares = ("alpha",)

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the most salient tokens of each crop, as many as the crop's share of the budget."""
        kept = []
        for i, (coordinates, k) in enumerate(zip(tokens.coordinates, budget, strict=True)):
            count = len(coordinates)
            crop = coordinates[:, 0]  # (N,)
            in_thumbnail = int((crop == 0).sum())
            in_tiles = count - in_thumbnail

            # the thumbnail's share, and what the tiles cannot hold
            share = min(int(self.alpha * k), in_thumbnail)
            share = max(share, k - in_tiles)

            # every crop's tokens, the most salient first
            order = _crop_by_crop(tokens.saliency[i, :count], crop)  # (N,)
            thumbnail = order[:share]
            tiles = order[in_thumbnail:]

            # The tiles divide the rest: the earliest turns win.
            if share < k:
                tiles = tiles[self._turns(tokens.signals[CONTENT][i], coordinates)]
            kept.append(torch.cat([thumbnail, tiles[: k - share]]).sort().values)
        return Selection(kept)

    def _turns(self, content: Tensor, coordinates: Tensor) -> Tensor:
        """Order the tiles' tokens by their turns, (2 j - 1) / v for the j-th token of a tile.

        Without a thumbnail (the frames of a video) all tiles have the same votes.

        Args:
            content: (N,) attention of CLS in the first layer.
            coordinates: (N, 3) of the image's tokens.

        Returns:
            (n,) positions among the tiles' tokens, tile by tile and the most salient first.
        """
        device = content.device
        votes_for = self._votes(content, coordinates)  # (voters,)

        # v: the votes of every tile
        tile, size = coordinates[coordinates[:, 0] > 0, 0].unique(return_counts=True)  # (tiles,)
        tile = tile.to(device, non_blocking=True)
        votes = (votes_for == tile[:, None]).sum(1).double().clamp(min=NO_VOTE)  # (tiles,)

        # j: which of its tile's tokens each one is, counted from 1
        counts = size.tolist()
        j = torch.cat([torch.arange(1, n + 1) for n in counts])  # (n,)
        j = j.to(device, non_blocking=True)
        of_tile = torch.arange(len(counts)).repeat_interleave(size)  # (n,)
        of_tile = of_tile.to(device, non_blocking=True)

        turn = (2 * j - 1) / votes[of_tile]  # (n,)
        return torch.argsort(turn, stable=True)

    def _votes(self, content: Tensor, coordinates: Tensor) -> Tensor:
        """Return the tiles that the thumbnail's highest tokens vote for, one each."""
        thumbnail = (coordinates[:, 0] == 0).nonzero()[:, 0]
        if len(thumbnail) == 0:
            return thumbnail.to(content.device, non_blocking=True)
        shown_by = tile_of(coordinates).to(content.device, non_blocking=True)  # (N_0,)

        thumbnail = thumbnail.to(content.device, non_blocking=True)
        by_content = content[thumbnail].argsort(descending=True, stable=True)  # (N_0,)
        voters = by_content[: int((1 - self.alpha) * len(thumbnail))]
        return shown_by[voters]


def _crop_by_crop(saliency: Tensor, crop: Tensor) -> Tensor:
    """List the tokens of the first crop, then of the next, the most salient first in each."""
    by_saliency = saliency.argsort(descending=True, stable=True)  # (N,)
    crop = crop.to(saliency.device, non_blocking=True)
    return by_saliency[crop[by_saliency].argsort(stable=True)]


@checked
def tile_of(coordinates: Tensor) -> Tensor:
    """Find for each token of the thumbnail the tile that shows its middle.

    Args:
        coordinates: (N, 3) crop, row, column of each token; crop 0 is the thumbnail.

    Returns:
        (N_0,) crops, 1 or more.
    """
    in_tile = coordinates[:, 0] > 0
    thumbnail = coordinates[~in_tile, 1:]  # (N_0, 2)
    tiles = coordinates[in_tile]  # (N - N_0, 3)

    # which tile lies at each row and column of the tiles' grid
    low, high = tiles[:, 1:].aminmax(dim=0)
    shape = high - low + 1
    height, width = shape.tolist()
    tile = torch.zeros(height, width, dtype=torch.long)
    row, column = (tiles[:, 1:] - low).unbind(1)
    tile[row, column] = tiles[:, 0]

    # the middle of the j-th of s tokens lies at (j + 1/2) / s of the side
    side = thumbnail.amax(0) + 1
    row, column = ((2 * thumbnail + 1) * shape // (2 * side)).unbind(1)
    return tile[row, column]
