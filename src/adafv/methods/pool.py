"""Pooling: averages instead of a choice."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Selection
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.uniform import Uniform, centers
from adafv.ops.grid import cells
from adafv.utils.checks import checked

__all__ = ["Pool", "means"]


@checked
@dataclass(kw_only=True)
class Pool(Uniform):
    """Averages the tokens of each of K equal cells of the image; the average sits where the
    cell's middle was.
    """

    name = "pool"

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        device = tokens.features.device
        kept, features = [], []
        for coordinates, k, tokens_of_image in zip(
            tokens.coordinates, budget, tokens.features, strict=True
        ):
            cell = cells(coordinates, k)
            middle = centers(coordinates, cell)
            features.append(
                means(tokens_of_image[: len(coordinates)], cell.to(device), k)[
                    cell[middle].to(device)
                ]
            )
            kept.append(middle.to(device, non_blocking=True))
        return Selection(kept, features)


@checked
def means(features: Tensor, cell: Tensor, count: int) -> Tensor:
    """(count, D) mean of the features (N, D) of each cell; `cell` (N,) says which, -1 for none."""
    weight = (cell == torch.arange(count, device=cell.device)[:, None]).double()
    return ((weight / weight.sum(1, keepdim=True)) @ features.double()).to(features.dtype)
