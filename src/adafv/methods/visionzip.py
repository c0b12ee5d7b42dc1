"""VisionZip: what stands out, and summaries of the rest."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner, Selection
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
    Departure: CLS is not kept: the language model of LLaVA never reads it. Its place goes to one
    more patch.
    Departure: a contextual token sits where its target was, not behind the dominant ones.
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
                f"contextual={self.contextual} is not a part of the budget: pass a share between 0 and 1"
            )

    def contextual_tokens(self, budget: int) -> int:
        """C for a budget of K."""
        return min(max(1, math.floor(self.contextual * budget + 0.5)), budget - 1)

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        kept, features = [], []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            contextual = self.contextual_tokens(k)
            order = tokens.saliency[i, :count].argsort(descending=True, stable=True)
            dominant, rest = order[: k - contextual], order[k - contextual :].sort().values
            zipped = tokens.features[i, :count].clone()
            if contextual:
                targets, others = _stride(rest, contextual)
                zipped[targets] = _merge(zipped, tokens.signals[KEYS][i], targets, others)
                dominant = torch.cat([dominant, targets])
            kept.append(dominant.sort().values)
            features.append(zipped[kept[-1]])
        return Selection(kept, features)


def _stride(rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` tokens at an even stride, and the others."""
    step = len(rest) // count
    strides = rest[: count * step].view(count, step)
    return strides[:, 0], torch.cat([strides[:, 1:].flatten(), rest[count * step :]])


def _merge(features: Tensor, keys: Tensor, targets: Tensor, others: Tensor) -> Tensor:
    mine = (
        cosines(keys[others], keys[targets]).argmax(1)
        == torch.arange(len(targets), device=targets.device)[:, None]
    )
    size = mine.sum(1, keepdim=True)
    mean = mine.float() @ features[others].float() / size.clamp(min=1)
    return torch.where(
        size > 0, ((features[targets].float() + mean) / 2).to(features.dtype), features[targets]
    )
