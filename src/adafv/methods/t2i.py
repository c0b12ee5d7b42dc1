"""Text-to-image attention alone: one half of AdaFV."""

from dataclasses import dataclass

from torch import Tensor

from adafv.core.pruner import ScoringPruner
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.relevance import text_to_image_attention

__all__ = ["TextToImage"]


@dataclass(kw_only=True)
class TextToImage(ScoringPruner):
    """Keeps what the words of the question resemble, whatever stands out.

    The relevance half of AdaFV (arXiv 2501.09532), as an ablation.

    Args:
        temperature: of the softmax over the visual tokens (paper: 0.01).
        center: subtract the mean visual token and the mean word before the cosine (paper: no).
        top: mean of the `top` strongest words for each token (paper: 1, the maximum).
    """

    temperature: float = 0.01
    center: bool = False
    top: int = 1

    name = "t2i"
    paper = "arXiv 2501.09532, ablation"
    needs_text = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} is not positive: pass e.g. 0.01")
        if self.top < 1:
            raise ValueError(f"top={self.top} words is too few: pass 1 or more")

    def score(self, tokens: VisualTokens) -> Tensor:
        assert tokens.text is not None
        return text_to_image_attention(
            tokens.text,
            tokens.features,
            tokens.text_mask,
            tokens.mask,
            temperature=self.temperature,
            center=self.center,
            top=self.top,
        )
