"""AdaFV: what stands out and what the question is about, in the proportion that suits each image and question."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.capture import SALIENCY
from adafv.cells import share_out
from adafv.encoding import VisualTokens
from adafv.methods.t2i import TextToImage
from adafv.mixture import mix
from adafv.pruner import Selection, first, one_of

__all__ = ["AdaFV"]


@dataclass(kw_only=True)
class AdaFV(TextToImage):
    """Self-adaptive mixture of saliency and text-to-image attention (SACMAM), under an exact budget.

    Jiayi Han et al., "AdaFV: Rethinking of Visual-Language alignment for VLM acceleration", arXiv 2501.09532;
    "AdaV: Adaptive Text-visual Redirection for Vision-Language Models", Findings of ACL 2025, pp. 4985-4997.
    Departure: the two top lists may overlap; the total grows until their union has K tokens. See `adafv.mixture`.

    Args:
        temperature, center, top: of the text-to-image attention, see `TextToImage`.
        reserve: share of the budget each list is sure of, 0 to 0.5 (authors' code: 0.25).
        crops: "global": one budget for the whole image; "each": every crop gets its share of it.
    """

    reserve: float = 0.25
    crops: Literal["global", "each"] = "global"

    name = "adafv"
    paper = "arXiv 2501.09532"
    signals = frozenset({SALIENCY})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.reserve <= 0.5:
            raise ValueError(f"reserve={self.reserve} is not a share both lists can have: pass 0 to 0.5")
        one_of("crops", self.crops, "global", "each")

    def attentions(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """(I, N) each: a_t and a_v, the two lists that are mixed."""
        return self.score(tokens), tokens.saliency

    def select(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        relevance, saliency = self.attentions(tokens)
        if self.crops == "global":
            mixture = mix(relevance, saliency, torch.tensor(budget), reserve=self.reserve, mask=tokens.mask)
            return Selection(first(mixture.order, budget), split=torch.stack([mixture.text, mixture.vision], dim=1))
        kept = [self._each_crop(relevance[i], saliency[i], tokens.where[i][:, 0], k) for i, k in enumerate(budget)]
        return Selection(kept)

    def _each_crop(self, relevance: Tensor, saliency: Tensor, crop: Tensor, budget: int) -> Tensor:
        sizes = crop.bincount().tolist()
        members = crop.argsort(stable=True).to(relevance.device, non_blocking=True).split(sizes)
        shares = share_out(budget, sizes)
        a_t, a_v = (pad_sequence([x[m] for m in members], batch_first=True) for x in (relevance, saliency))
        mask = pad_sequence([torch.ones_like(m, dtype=torch.bool) for m in members], batch_first=True)
        mixture = mix(a_t, a_v, torch.tensor(shares), reserve=self.reserve, mask=mask)
        kept = first(mixture.order, shares)
        return torch.cat([m[k] for m, k in zip(members, kept, strict=True)]).sort().values
