"""Random tokens: what every method has to beat."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.nested import ScoringPruner
from adafv.core.visual_tokens import VisualTokens

__all__ = ["Random"]


@dataclass(kw_only=True)
class Random(ScoringPruner):
    """Keeps tokens at random.

    The same ones for the same question, seed and image size, in any batch.

    Args:
        seed: another seed, another draw.
    """

    seed: int = 0

    name = "random"
    draws = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < 2**63:
            raise ValueError(
                f"seed={self.seed} is not a valid seed: pass an integer from 0 to 2^63 - 1"
            )

    def score(self, tokens: VisualTokens) -> Tensor:
        """Rank by numbers drawn anew for each question."""
        scores = torch.zeros(tokens.mask.shape)  # (I, N)
        for row, count, seed in zip(scores, tokens.counts, tokens.seeds, strict=True):
            # on the host: a generator of another device would draw other numbers
            generator = torch.Generator().manual_seed(seed ^ self.seed)
            row[:count] = torch.rand(count, generator=generator)
        return scores.to(tokens.features.device, non_blocking=True)
