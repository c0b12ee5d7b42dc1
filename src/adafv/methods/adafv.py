"""AdaFV: what stands out and what the question is about, in the proportion that suits both.

The parts of the paper (arXiv 2501.09532):

- T2I similarity, T2I attention and its temperature (section 3.2): a_t, in
  `adafv.ops.relevance.text_to_image_attention_naive`, and fast in `text_to_image_attention`;
- visual saliency a_v, the attention of CLS: `adafv.ops.saliency.cls_attention_naive`;
- SACMAM with its reserve, and the exact budget (section 3.3): `adafv.ops.sacmam.mix_naive`, and
  fast in `mix`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adafv.core.evidence import Evidence
from adafv.core.selection import Selection, first
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods._text_relevance import TextRelevance
from adafv.ops.frames import change
from adafv.ops.sacmam import mix
from adafv.utils.checks import one_of

__all__ = ["AdaFV"]


@dataclass(kw_only=True)
class AdaFV(TextRelevance):
    """Mixes saliency and text-to-image attention (SACMAM) under an exact budget.

    Jiayi Han et al., "AdaFV: Rethinking of Visual-Language alignment for VLM acceleration", arXiv
    2501.09532; "AdaV: Adaptive Text-visual Redirection for Vision-Language Models", Findings of ACL
    2025, pp. 4985-4997.
    Departure: the two top lists may overlap; the total grows until their union has K tokens. See
    `adafv.ops.sacmam`.
    Departure: words are the user's own, before the image and behind it; the authors' code takes all
    text behind the image, that of the chat template included.

    A larger budget keeps all that a smaller one keeps, see `adafv.ops.sacmam.mix`, unless
    `mass="beyond"` or `crops="each"`; there is no `order`, since every budget finds its split.

    Args:
        temperature, center, top: of the text-to-image attention, see `TextToImage`.
        reserve: share of the budget each list is sure of, 0 to 0.5 (authors' code: 0.25).
        mass: what the mixture weighs: "whole", all that either list captures, as the paper says;
            "beyond", what it captures beyond its reserve, as in the authors' code. One image in ten
            keeps the same tokens with both; at 10 % kept the authors' costs 2.5 points of reading
            (p = .002).
        repeats: what tokens of a video count for that repeat the frame before. "count": as much as
            any other; frames share the budget as the mixture has it. "discount" (ours): both lists
            are multiplied by 1 - cosine to the token at the same place in the frame before, so that
            a frame gets less the less is new in it. No difference to an image.
    """

    reserve: float = 0.25
    mass: Literal["whole", "beyond"] = "whole"
    repeats: Literal["count", "discount"] = "count"

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
        one_of("repeats", self.repeats, "count", "discount")
        if self.repeats == "discount" and self.crops == "each":
            raise ValueError(
                "repeats='discount' compares the frames of a video, and crops='each' makes every "
                "frame an image of its own: pass crops='global'"
            )

    def attentions(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """Return a_t and a_v (I, N each), the two lists that are mixed."""
        relevance = self.relevance(tokens)
        if self.repeats == "count":
            return relevance, tokens.saliency
        new = _new(tokens)  # (I, N)
        return relevance * new, tokens.saliency * new

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the top k_t of a_t and the top k_v of a_v, the split by which both capture most."""
        # T2I attention and visual saliency
        relevance, saliency = self.attentions(tokens)  # (I, N) each

        # SACMAM: split the budget of each image, k_t + k_v
        mixture = mix(
            relevance,
            saliency,
            torch.tensor(budget),
            reserve=self.reserve,
            mass=self.mass,
            mask=tokens.mask,
        )
        split = torch.stack([mixture.text, mixture.vision], dim=1)  # (I, 2)

        # Keep the union, in the order of the image.
        return Selection(first(mixture.order, budget), split=split)

    def evidence(self, tokens: VisualTokens) -> Evidence:
        """Return the two lists as they are mixed, and the part of every word in a_t."""
        relevance, saliency = self.attentions(tokens)
        return Evidence(
            saliency=saliency,
            relevance=relevance,
            words=self.word_relevance(tokens),
            reserve=self.reserve,
        )


def _new(tokens: VisualTokens) -> Tensor:
    """Return how much of each token the frame before does not show, 0 to 1 (I, N)."""
    new = torch.ones_like(tokens.saliency)
    for i, frames in enumerate(tokens.frames):
        if frames > 1:
            count = tokens.counts[i]
            changed = change(tokens.features[i, :count], tokens.coordinates[i], frames)  # (N,)
            new[i, :count] = changed.clamp(max=1)
    return new
