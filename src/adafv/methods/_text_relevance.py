"""Text-to-image attention as a part of a method, and the options that go with it."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from adafv.core.evidence import Evidence
from adafv.core.pruner import Pruner
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.relevance import text_to_image_attention, word_attention
from adafv.utils.checks import positive

__all__ = ["TextRelevance"]


@dataclass(kw_only=True)
class TextRelevance(Pruner):
    """A method that looks at a_t, see `adafv.ops.relevance.text_to_image_attention`.

    Args:
        temperature: of the softmax over the visual tokens (paper: 0.01).
        center: subtract the mean visual token and the mean word before the cosine (paper: no).
        top: mean of the `top` strongest words for each token (paper: 1, the maximum).
    """

    temperature: float = 0.01
    center: bool = False
    top: int = 1

    needs_text = True

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("temperature", self.temperature, 0.01)
        if self.top < 1:
            raise ValueError(f"top={self.top} words is too few: pass 1 or more")

    def relevance(self, tokens: VisualTokens) -> Tensor:
        """Return a_t, the text-to-image attention of every visual token (I, N)."""
        return text_to_image_attention(**self._pairs(tokens), top=self.top)

    def word_relevance(self, tokens: VisualTokens) -> Tensor:
        """Return what each text token on its own points at (I, M, N)."""
        return word_attention(**self._pairs(tokens))

    def _pairs(self, tokens: VisualTokens) -> dict[str, Any]:
        """Return text and visual tokens, and how their cosines become attention."""
        return {
            "text": tokens.text,
            "text_mask": tokens.text_mask,
            "visual": tokens.features,
            "visual_mask": tokens.mask,
            "temperature": self.temperature,
            "center": self.center,
        }

    def evidence(self, tokens: VisualTokens) -> Evidence:
        """Return the signals of the tower, a_t, and the part of every word in it."""
        return replace(
            super().evidence(tokens),
            relevance=self.relevance(tokens),
            words=self.word_relevance(tokens),
        )
