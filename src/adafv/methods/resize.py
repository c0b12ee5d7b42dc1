"""Resize: a smaller image instead of fewer tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.downsample import grid_within, middles
from adafv.core.encode import encode
from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.utils.checks import checked

__all__ = ["Resize"]


@checked
@dataclass(kw_only=True)
class Resize(Pruner):
    """Shrinks the image until the vision tower makes K tokens of it.

    What costs nothing to try, and the cheapest in the tower: what does not beat it is not worth
    its code (arXiv 2510.07143). K becomes the largest grid within the budget, of sides that squeeze
    the image by no more than half; images of several crops are refused.
    """

    name = "resize"
    exact = False
    shrinks = True

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Encoding:
        """Run the vision tower on smaller images."""
        return encode(
            model,
            inputs,
            signals=(),
            text=False,
            of=self.question,
            tokenizer=self.tokenizer,
            downsample=self.budget,
        )

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the tokens in which the middles of the small image's patches lie."""
        kept: list[Tensor] = []
        for coordinates, k in zip(tokens.coordinates, budget, strict=True):
            rows, columns = (coordinates[:, 1:].max(0).values + 1).tolist()
            grid = grid_within(rows, columns, k)
            kept.append(middles(rows, columns, grid).to(tokens.device, non_blocking=True))
        return Selection(kept)
