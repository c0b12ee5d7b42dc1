"""AdaFV: what stands out and what the question is about, in the proportion that suits each image
and question.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adafv.core.pruner import Selection, first, one_of
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.t2i import TextToImage
from adafv.ops.sacmam import mix

__all__ = ["AdaFV"]


@dataclass(kw_only=True)
class AdaFV(TextToImage):
    """Self-adaptive mixture of saliency and text-to-image attention (SACMAM), under an exact
    budget.

    Jiayi Han et al., "AdaFV: Rethinking of Visual-Language alignment for VLM acceleration", arXiv
    2501.09532; "AdaV: Adaptive Text-visual Redirection for Vision-Language Models", Findings of ACL
    2025, pp. 4985-4997.
    Departure: the two top lists may overlap; the total grows until their union has K tokens. See
    `adafv.ops.sacmam`.

    Args:
        temperature, center, top: of the text-to-image attention, see `TextToImage`.
        reserve: share of the budget each list is sure of, 0 to 0.5 (authors' code: 0.25).
        mass: what the mixture weighs: "whole", all that either list captures, as the paper says;
            "beyond", what it captures beyond its reserve, as in the authors' code. One image in ten
            keeps the same tokens with both; at 10 % kept the authors' costs 2.5 points of reading
            (p = .002).
    """

    reserve: float = 0.25
    mass: Literal["whole", "beyond"] = "whole"

    name = "adafv"
    paper = "arXiv 2501.09532"
    signals = frozenset({SALIENCY})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.reserve <= 0.5:
            raise ValueError(
                f"reserve={self.reserve} is not a share both lists can have: pass 0 to 0.5"
            )
        one_of("mass", self.mass, "whole", "beyond")

    def attentions(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """(I, N) each: a_t and a_v, the two lists that are mixed."""
        return self.score(tokens), tokens.saliency

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        relevance, saliency = self.attentions(tokens)
        mixture = mix(
            relevance,
            saliency,
            torch.tensor(budget),
            reserve=self.reserve,
            mass=self.mass,
            mask=tokens.mask,
        )
        return Selection(
            first(mixture.order, budget), split=torch.stack([mixture.text, mixture.vision], dim=1)
        )
