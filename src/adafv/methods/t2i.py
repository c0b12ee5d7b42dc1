"""Text-to-image attention alone: one half of AdaFV."""

from dataclasses import dataclass

from torch import Tensor

from adafv.core.nested import ScoringPruner
from adafv.core.visual_tokens import VisualTokens
from adafv.methods._text_relevance import TextRelevance

__all__ = ["TextToImage"]


@dataclass(kw_only=True)
class TextToImage(TextRelevance, ScoringPruner):
    """Keeps what the words of the question resemble, whatever stands out.

    The relevance half of AdaFV (arXiv 2501.09532, section 3.2), as an ablation, of the same words.

    Args:
        temperature: of the softmax over the visual tokens (paper: 0.01).
        center: subtract the mean visual token and the mean word before the cosine (paper: no).
        top: mean of the `top` strongest words for each token (paper: 1, the maximum).
    """

    name = "t2i"
    paper = "arXiv 2501.09532, ablation"

    def score(self, tokens: VisualTokens) -> Tensor:
        """Rank by a_t, see `adafv.ops.relevance.text_to_image_attention`."""
        return self.relevance(tokens)
