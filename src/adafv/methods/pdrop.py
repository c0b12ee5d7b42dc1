"""PyramidDrop: fewer visual tokens with every quarter of the language model."""

from dataclasses import dataclass

from adafv.core.layerwise import LayerPruner, Raters, last_token
from adafv.core.visual_tokens import Encoding

__all__ = ["PyramidDrop"]


@dataclass(kw_only=True)
class PyramidDrop(LayerPruner):
    """Keeps the same share after each quarter of the layers, by the last token's attention.

    Long Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid
    Visual Redundancy Reduction", CVPR 2025, arXiv 2410.17247. Stages end after 1/4, 1/2 and 3/4 of
    the layers (rounded down); an image of N tokens has N · λ^s after stage s, ranked by what the
    last token of the instruction attends to: softmax of query and key of the next stage's first
    layer, on the tokens that come in, mean over heads.
    Departure: λ follows from the budget (paper: 0.5).
    Departure: the last token is the prompt's, the chat template's opening of the answer included.
    Departure: tokens keep their positions; the authors number them anew.
    """

    name = "pdrop"
    paper = "arXiv 2410.17247"
    looks_ahead = True

    def stages(self, layers: int) -> list[int]:
        """Prune after each quarter of the layers but the last."""
        quarters = (layers // 4, layers // 2, 3 * layers // 4)
        return sorted({max(1, quarter) for quarter in quarters})  # shallow models: some coincide

    def raters(self, encoding: Encoding) -> Raters:
        """Rank by the attention of the prompt's last token."""
        return last_token(encoding)
