"""PruMerge: what stands out, each token with what resembles it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner, Selection
from adafv.core.signals import KEYS, SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.cosine import cosines

__all__ = ["PruMerge", "PruMergePlus"]


@dataclass(kw_only=True)
class PruMerge(Pruner):
    """Keeps the most salient tokens and adds to each the tokens that resemble it.

    Yuzhang Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal
    Models", ICCV 2025, arXiv 2403.15388. With a the saliency and y the features, a token that stays
    becomes y_i + Σ_j a_j · y_j, the sum over the 32 other tokens, kept or dropped, whose keys have
    the largest cosine with its own. A token may be added to several.
    Departure: the budget says how many stay. The paper takes the outliers of a, Q3 + 1.5 · IQR or
    more.
    Departure: no extra token for the sum of all that was dropped: it would cost one of K places.
    Departure: features merge after the projector, not before it. Where all tokens stay none is
    changed.
    Departure: saliency and keys of the layer of the features, means over heads, not the last
    layer's heads in a row.

    Args:
        neighbours: how many tokens are added to each (authors' code: 32), fewer where there are
            fewer others.
    """

    neighbours: int = 32

    name = "prumerge"
    paper = "arXiv 2403.15388"
    signals = frozenset({SALIENCY, KEYS})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours < 1:
            raise ValueError(
                f"neighbours={self.neighbours} leaves nothing to merge: pass 1 or more"
            )

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        kept, features = [], []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            order = self._order(tokens.saliency[i, :count], k)
            stay = order[:k].sort().values
            visual = tokens.features[i, :count]  # (N, D)
            merged = visual
            if k < count:
                weight = self._weight(
                    tokens.saliency[i, :count], tokens.signals[KEYS][i, :count], stay
                )
                merged = (visual[stay].float() + weight @ visual.float()).to(visual.dtype)  # (K, D)
            kept.append(stay)
            features.append(merged)
        return Selection(kept, features)

    def _order(self, saliency: Tensor, budget: int) -> Tensor:
        """All tokens, those that stay first."""
        return saliency.argsort(descending=True, stable=True)

    def _weight(self, saliency: Tensor, keys: Tensor, stay: Tensor) -> Tensor:
        """(K, N) how much of each token is added to each that stays."""
        similarity = cosines(keys[stay], keys)  # (K, N)
        others = similarity.scatter(1, stay[:, None], -torch.inf)
        count = min(self.neighbours, len(saliency) - 1)
        nearest = others.argsort(dim=1, descending=True, stable=True)[:, :count]
        return torch.zeros_like(others, dtype=saliency.dtype).scatter(1, nearest, saliency[nearest])


@dataclass(kw_only=True)
class PruMergePlus(PruMerge):
    """PruMerge with a part of the budget spread evenly over the image.

    PruMerge+ of the same paper: beside the salient tokens stay others at an even stride, and all of
    them merge.
    Departure: the stride runs over the tokens that saliency did not take, so that K different ones
    stay; the authors' runs over all of them, at a third of one in the share that stands out, and
    leaves out what it meets there.

    Args:
        neighbours: see `PruMerge`.
        spread: share of the budget that is spread, floor(spread · K) tokens (paper: about three
            quarters, 25 % kept where PruMerge keeps 7 %).
    """

    spread: float = 0.75

    name = "prumerge+"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.spread < 1:
            raise ValueError(
                f"spread={self.spread} is not a part of the budget: pass 0 <= spread < 1"
            )

    def _order(self, saliency: Tensor, budget: int) -> Tensor:
        spread = int(self.spread * budget)
        order = super()._order(saliency, budget)
        salient, rest = order[: budget - spread], order[budget - spread :].sort().values
        taken = torch.zeros(len(rest), dtype=torch.bool)
        taken[torch.arange(spread) * len(rest) // max(spread, 1)] = True
        places = torch.cat([taken.nonzero(), (~taken).nonzero()])[:, 0]
        return torch.cat([salient, rest[places.to(rest.device, non_blocking=True)]])
