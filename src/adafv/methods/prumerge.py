"""PruMerge: what stands out, each token with what resembles it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.signals import KEYS, SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.budget import share_of
from adafv.ops.cosine import cosines

__all__ = ["PruMerge", "PruMergePlus"]


@dataclass(kw_only=True)
class PruMerge(Pruner):
    """Keeps the most salient tokens and adds to each the tokens that resemble it.

    Yuzhang Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal
    Models", ICCV 2025, arXiv 2403.15388. With a the saliency and y the features, a kept token
    becomes y_i + Σ_j a_j · y_j, the sum over the 32 other tokens, kept or dropped, whose keys have
    the largest cosine with its own. A token may be added to several.
    Departure: the budget says how many are kept. The paper takes the outliers of a, Q3 + 1.5 · IQR
    or more.
    Departure: no extra token for the sum of all that was dropped: it would cost one of the K.
    Departure: features merge after the projector, not before it. Where all tokens are kept they
    do not change.
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
        """Keep the most salient tokens, and add to each those whose keys resemble its own."""
        kept = []
        features = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            saliency = tokens.saliency[i, :count]  # (N,)
            visual = tokens.features[i, :count]  # (N, D)
            chosen = self._order(saliency, k)[:k].sort().values  # (K,)

            # y_i + Σ_j a_j · y_j over the nearest others
            if k < count:
                weight = self._weight(saliency, tokens.signals[KEYS][i, :count], chosen)  # (K, N)
                merged = visual[chosen].float() + weight @ visual.float()  # (K, D)
                visual = merged.to(visual.dtype)
            kept.append(chosen)
            features.append(visual)
        return Selection(kept, features)

    def _order(self, saliency: Tensor, budget: int) -> Tensor:
        """Order all tokens, those that are kept first."""
        return saliency.argsort(descending=True, stable=True)

    def _weight(self, saliency: Tensor, keys: Tensor, kept: Tensor) -> Tensor:
        """Say how much of each token is added to each kept one (K, N)."""
        # the other tokens with the largest cosine of keys
        similarity = cosines(keys[kept], keys)  # (K, N)
        others = similarity.scatter(1, kept[:, None], -torch.inf)
        count = min(self.neighbours, len(saliency) - 1)
        nearest = others.argsort(dim=1, descending=True, stable=True)[:, :count]  # (K, 32)

        # weighted with their saliency
        weight = torch.zeros_like(others, dtype=saliency.dtype)  # (K, N)
        return weight.scatter(1, nearest, saliency[nearest])


@dataclass(kw_only=True)
class PruMergePlus(PruMerge):
    """PruMerge with a part of the budget spread evenly over the image.

    PruMerge+ of the same paper: others at an even stride are kept beside the salient tokens, and
    all of them merge.
    Departure: the stride runs over the tokens that saliency did not take, so that K different ones
    are kept; the authors' runs over all of them, at a third of one in the share that stands out,
    and leaves out what it meets there.

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
        """Order all tokens: the salient ones, those at an even stride, the rest."""
        spread = share_of(budget, self.spread)
        order = super()._order(saliency, budget)  # (N,)
        salient = order[: budget - spread]
        rest = order[budget - spread :].sort().values

        # an even stride over what saliency did not take
        strided = torch.zeros(len(rest), dtype=torch.bool)
        strided[torch.arange(spread) * len(rest) // max(spread, 1)] = True
        strided_first = torch.cat([strided.nonzero(), (~strided).nonzero()])[:, 0]
        strided_first = strided_first.to(rest.device, non_blocking=True)
        return torch.cat([salient, rest[strided_first]])
