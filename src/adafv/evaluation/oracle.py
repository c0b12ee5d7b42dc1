"""The oracle: a bound for every method, from boxes that no method sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Selection
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.uniform import Uniform
from adafv.utils.checks import checked

__all__ = ["Oracle"]


@checked
@dataclass(kw_only=True)
class Oracle(Uniform):
    """Keeps the tokens inside the boxes of what is asked about, then an even stride over the rest.

    Where the budget doesn't hold them all the boxes take turns, each with its innermost token next.
    A bound on what knowing where to look is worth, not on what can be reached: a question may hang
    on what is in no box.

    Args:
        distances: for each image, (N, boxes) of `adafv.evaluation.boxes.distances`.
    """

    distances: Sequence[Tensor] = ()

    name = "oracle"

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        kept = []
        for coordinates, distances, k in zip(
            tokens.coordinates, self.distances, budget, strict=True
        ):
            named = inside_out(distances)[:k]
            rest = torch.ones(len(coordinates), dtype=torch.bool)
            rest[named] = False
            left = rest.nonzero()[:, 0]
            stride = (torch.arange(k - len(named)) + 0.5) * len(left) / max(1, k - len(named))
            kept.append(
                torch.cat([named, left[stride.long()]]).sort().values.to(tokens.features.device)
            )
        return Selection(kept)


def inside_out(distances: Tensor) -> Tensor:
    """The tokens in any box, in the order in which the boxes, taking turns, name them from the
    middle outwards.
    """
    if distances.shape[1] == 0:
        return torch.empty(0, dtype=torch.long)
    order = distances.argsort(dim=0, stable=True)
    turns = order.flatten()[distances.gather(0, order).flatten().isfinite()]
    return torch.tensor(list(dict.fromkeys(turns.tolist())), dtype=torch.long)
