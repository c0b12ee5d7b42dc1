"""The oracle: a bound for every method, from boxes that no method sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.selection import Selection
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
        """Keep the tokens in the boxes first, then an even stride over the others."""
        kept = []
        for distances, k in zip(self.distances, budget, strict=True):
            # those in the boxes
            named = inside_out(distances)[:k]  # (n,)

            # an even stride over the others, from the middle of each stretch
            others = torch.ones(len(distances), dtype=torch.bool)
            others[named] = False
            left = others.nonzero()[:, 0]  # (N - n,)
            more = k - len(named)
            stride = (torch.arange(more) + 0.5) * len(left) / max(1, more)  # (K - n,)

            indices = torch.cat([named, left[stride.long()]]).sort().values  # (K,)
            kept.append(indices.to(tokens.features.device))
        return Selection(kept)


def inside_out(distances: Tensor) -> Tensor:
    """Return the tokens in any box, as the boxes, taking turns, name them from their middles out.

    Args:
        distances: (N, boxes), inf outside a box.
    """
    if distances.shape[1] == 0:
        return torch.empty(0, dtype=torch.long)

    # row by row: the innermost token of each box, then the next of each
    order = distances.argsort(dim=0, stable=True)  # (N, boxes)
    inside = distances.gather(0, order).isfinite()  # (N, boxes)
    turns = order[inside]  # boolean indexing goes row by row
    # a token that two boxes name counts where it comes first
    return torch.tensor(list(dict.fromkeys(turns.tolist())), dtype=torch.long)
