"""The frames of a video: which token follows which, and budgets that are spread over frames.

Letters: N tokens of a video, F frames, P places of a frame.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["change", "frame_grid", "latest", "ranks", "turns_by_quotient", "turns_by_remainder"]


@checked
def frame_grid(coordinates: Tensor, frames: int) -> Tensor:
    """Return which token of a video shows each place of each frame.

    Args:
        coordinates: (N, 3) crop, row and column of each token; frames are crops 1 to F, one below
            the other, and the first is whole.
        frames: F.

    Returns:
        (F, P) indices in raster order; -1 where a frame has no token, since it repeats the one
        before.
    """
    frame = (coordinates[:, 0] - 1).clamp(min=0)  # (N,)
    first = coordinates[frame == 0, 1:]  # (P, 2)
    height, width = (first.amax(0) + 1).tolist()
    row = coordinates[:, 1] - frame * height  # (N,)
    grid = torch.full((frames, height * width), -1)
    grid[frame, row * width + coordinates[:, 2]] = torch.arange(len(coordinates))
    return grid


@checked
def latest(grid: Tensor) -> Tensor:
    """Return the token that each place shows: that of the frame, or the one that it repeats.

    Args:
        grid: (F, P) as `frame_grid` returns it.
    """
    frame = torch.arange(len(grid))[:, None].expand_as(grid)  # (F, P)
    seen = frame.masked_fill(grid < 0, 0).cummax(0).values  # (F, P) the last frame with a token
    return grid.gather(0, seen)


@checked
def change(features: Tensor, coordinates: Tensor, frames: int) -> Tensor:
    """Return how much each token differs from the one at its place in the frame before.

    Args:
        features: (N, D) of a video.
        coordinates: (N, 3), see `frame_grid`.
        frames: F.

    Returns:
        (N,) fp64: 1 - cosine, 0 to 2; 1 in the first frame, which repeats nothing.
    """
    device = features.device
    grid = frame_grid(coordinates, frames)  # (F, P)
    shown = latest(grid).to(device, non_blocking=True)  # (F, P)

    # frame by frame: the whole video in fp64 would be several copies of itself
    new = [torch.ones(shown.shape[1], dtype=torch.double, device=device)]  # F times (P,)
    before = F.normalize(features[shown[0]].double(), dim=-1)  # (P, D)
    for frame in shown[1:]:
        unit = F.normalize(features[frame].double(), dim=-1)  # (P, D)
        new.append(1 - (unit * before).sum(-1))
        before = unit
    dissimilarity = torch.stack(new)  # (F, P)

    # from the grid back to the tokens
    place = torch.empty(len(coordinates), dtype=torch.long)
    place[grid[grid >= 0]] = (grid.flatten() >= 0).nonzero()[:, 0]
    return dissimilarity.flatten()[place.to(device, non_blocking=True)]


@checked
def ranks(scores: Tensor, there: Tensor) -> Tensor:
    """Return how many tokens of its frame are before each token, the highest score first.

    Args:
        scores: (F, P). Equal scores: the earlier place is before.
        there: (F, P), true where a frame has a token; the others come last.
    """
    ranked = scores.masked_fill(there == 0, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)  # (F, P)
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)  # (F, P)


@checked
def turns_by_quotient(rank: Tensor, weights: Tensor) -> Tensor:
    """Return when each token has its turn, where budgets are shares rounded to the nearest.

    The j-th token of a frame of weight w has its turn at (2 j - 1) / w, and the K earliest are kept
    (Sainte-Laguë): every frame gets w / d rounded to the nearest whole number, d the divisor by
    which these numbers add up to K. The first token of each frame goes before all others.

    Args:
        rank: (F, P) as `ranks` returns them.
        weights: (F,) positive.
    """
    weight = weights[:, None]  # (F, 1)
    return torch.where(rank == 0, -weight, (2 * rank + 1) / weight)


@checked
def turns_by_remainder(rank: Tensor, weights: Tensor, budget: int) -> Tensor:
    """Return when each token has its turn, where what rounding leaves goes by remainders.

    Every frame is sure of one token, if the budget has as many, and of the whole number below its
    share of the rest. What is left goes to the largest remainders, one each; so does what a frame
    has no tokens for.

    Args:
        rank: (F, P) as `ranks` returns them.
        weights: (F,) that add up to 1.
        budget: K; the K earliest are kept.
    """
    frames = len(rank)
    least = 1 if budget >= frames else 0
    share = (weights * (budget - least * frames))[:, None]  # (F, 1)
    sure = share.floor() + least
    turn = rank - sure + 1 - share.frac()  # (F, P)
    return turn.where(rank >= sure, 0.0)
