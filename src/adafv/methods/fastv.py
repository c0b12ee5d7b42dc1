"""FastV: an image is worth 1/2 tokens after layer 2."""

from dataclasses import dataclass

from adafv.core.layerwise import LayerPruner, Raters, after_share, last_token
from adafv.core.visual_tokens import Encoding

__all__ = ["FastV"]


@dataclass(kw_only=True)
class FastV(LayerPruner):
    """After an early layer keeps the visual tokens that the last token of the prompt attends to.

    Liang Chen et al., "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference
    Acceleration for Large Vision-Language Models", ECCV 2024, arXiv 2403.06764. The attention is
    that of layer `layer`, mean over heads; the best K2 of an image's N tokens are kept, with their
    positions. With L layers: layer · N + (L - layer) · K2 = L · K.
    Departure: K2 follows from the budget, not from a ratio R.
    Departure: each image of a prompt has its own budget.

    Args:
        layer: how many layers read everything (paper: 2 of 32); None: as large a share of the
            model's layers.
    """

    layer: int | None = None

    name = "fastv"
    paper = "arXiv 2403.06764"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None and self.layer < 1:
            raise ValueError(f"layer={self.layer} has no attention before it: pass 1 or more")

    def stages(self, layers: int) -> list[int]:
        """Prune once, after an early layer."""
        if self.layer is None:
            return after_share(layers, 2 / 32)  # the paper's layer 2 of 32
        return [self.layer]

    def raters(self, encoding: Encoding) -> Raters:
        """Rank by the attention of the prompt's last token."""
        return last_token(encoding)
