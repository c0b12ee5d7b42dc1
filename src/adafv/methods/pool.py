"""Pooling: averages instead of a choice."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.selection import Selection
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.uniform import Uniform, centers
from adafv.ops.grid import cells
from adafv.utils.checks import checked

__all__ = ["Pool", "means"]

CHUNK = 1024  # cells at a time: memory is CHUNK · N, not K · N


@checked
@dataclass(kw_only=True)
class Pool(Uniform):
    """Averages the tokens of each of K equal cells of the image.

    The average takes the position of the cell's middle token.
    """

    name = "pool"

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the middle token of each cell, with the mean of the cell's features."""
        device = tokens.device
        kept = []
        features = []
        for i, k in enumerate(budget):
            visual, coordinates = tokens.features[i], tokens.coordinates[i]  # (N, D), (N, 3)
            cell = cells(coordinates, k, tokens.frames[i])  # (N,)
            middle = centers(coordinates, cell)  # (K,)
            averages = means(visual[: len(coordinates)], cell.to(device), k)  # (K, D) by cell
            features.append(averages[cell[middle].to(device)])  # (K, D) by token
            kept.append(middle.to(device, non_blocking=True))
        return Selection(kept, features)


@checked
def means(features: Tensor, cell: Tensor, count: int) -> Tensor:
    """Average the features of each cell.

    Args:
        features: (N, D).
        cell: (N,) 0 … K - 1; -1 for a token of no cell.
        count: K.

    Returns:
        (K, D).
    """
    # a matrix product, not a scattered sum, whose order hangs on the device
    averages: list[Tensor] = []
    for numbers in torch.arange(count, device=cell.device).split(CHUNK):
        member = (cell == numbers[:, None]).double()  # (chunk, N)
        weight = member / member.sum(1, keepdim=True)
        averages.append((weight @ features.double()).to(features.dtype))
    return torch.cat(averages)
