"""VisionZip: what stands out, and summaries of the rest."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.signals import KEYS, SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.cosine import cosines
from adafv.utils.checks import checked

__all__ = ["VisionZip"]


@checked
@dataclass(kw_only=True)
class VisionZip(Pruner):
    """Keeps the most salient (dominant) tokens and merges the rest into a few contextual ones.

    Senqiao Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models",
    CVPR 2025, arXiv 2412.04467. Of the tokens that are not dominant, C at an even stride are
    targets; every other one goes to the target whose key resembles its own most, and a contextual
    token is its target with the mean of what went to it.
    Departure: a contextual token is the average of its target and that mean. The authors add the
    two before the projector; after it, where features merge here, a sum would be twice as long as a
    token.
    Departure: CLS is not kept: the language model of LLaVA never reads it. One more patch is
    kept instead.
    Departure: a contextual token has the position of its target, not behind the dominant ones.
    Departure: one budget for all crops, where the authors have one for each (`crops="each"`).

    Args:
        contextual: C as a share of the budget (paper: 10 of 64), rounded; at least 1 where K is 2
            or more, at most K - 1.
    """

    contextual: float = 10 / 64

    name = "visionzip"
    paper = "arXiv 2412.04467"
    signals = frozenset({SALIENCY, KEYS})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.contextual < 1:
            raise ValueError(
                f"contextual={self.contextual} is not a part of the budget: "
                "pass a share between 0 and 1"
            )

    def contextual_tokens(self, budget: int) -> int:
        """Return C for a budget of K."""
        rounded = math.floor(self.contextual * budget + 0.5)
        return min(max(1, rounded), budget - 1)

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the dominant tokens as they are, and contextual ones with what went to them."""
        kept = []
        features = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            zipped = tokens.features[i, :count].clone()  # (N, D)
            contextual = self.contextual_tokens(k)

            # dominant tokens: the most salient
            order = tokens.saliency[i, :count].argsort(descending=True, stable=True)  # (N,)
            chosen = order[: k - contextual]
            rest = order[k - contextual :].sort().values

            # contextual tokens: targets at an even stride, with what resembles them
            if contextual:
                targets, others = _stride(rest, contextual)
                zipped[targets] = _merge(zipped, tokens.signals[KEYS][i], targets, others)
                chosen = torch.cat([chosen, targets])

            chosen = chosen.sort().values  # (K,)
            kept.append(chosen)
            features.append(zipped[chosen])
        return Selection(kept, features)


def _stride(rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Take `count` tokens at an even stride; return them, and the others."""
    step = len(rest) // count
    strides = rest[: count * step].view(count, step)
    beyond = rest[count * step :]
    return strides[:, 0], torch.cat([strides[:, 1:].flatten(), beyond])


def _merge(features: Tensor, keys: Tensor, targets: Tensor, others: Tensor) -> Tensor:
    """Average each target with the mean of the tokens that go to it.

    Args:
        features: (N, D).
        keys: (N, d).
        targets: (C,) indices.
        others: (R,) indices.

    Returns:
        (C, D).
    """
    # every other token goes to the target whose key resembles its own most
    goes_to = cosines(keys[others], keys[targets]).argmax(1)  # (R,)
    numbers = torch.arange(len(targets), device=targets.device)
    mine = goes_to == numbers[:, None]  # (C, R)

    size = mine.sum(1, keepdim=True)  # (C, 1)
    mean = mine.float() @ features[others].float() / size.clamp(min=1)  # (C, D)
    merged = ((features[targets].float() + mean) / 2).to(features.dtype)

    # a target that nothing goes to is left as it is
    return torch.where(size > 0, merged, features[targets])
