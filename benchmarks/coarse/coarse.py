"""Coarse-to-fine: the thumbnail's tokens decide which tiles are encoded at all.

It is simulated; a clock counts the time it would save.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, ProcessorMixin

from adafv.core.pruner import Pruner, Selection
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.adafv import AdaFV
from adafv.methods.adafv_plus import AdaFVPlus
from adafv.methods.hired import tile_of
from adafv.models.prompting import build_text
from adafv.ops.budget import num_keep
from adafv.speed import flops

__all__ = ["TILES", "Clock", "Coarse", "best_tiles", "only"]

TILES = 4
"""Tiles of a square image, 2 × 2, beside its thumbnail."""


@dataclass(kw_only=True)
class Coarse(Pruner):
    """AdaFV or AdaFV+ on the thumbnail and the tiles that the thumbnail points at.

    The tower looks at each crop on its own, so that a tile is not encoded means: none of its tokens
    may be kept, and neither softmax nor mixture sees them. Here all crops are encoded and those
    tiles are hidden.

    Args:
        fine: the method that chooses the tokens, and whose scores on the thumbnail alone choose the
            tiles.
        tiles: how many of them are encoded; 0: the thumbnail alone.
        chance: draw them instead.
    """

    fine: AdaFV | AdaFVPlus
    tiles: int
    chance: bool = False

    # what the base methods need
    name = "coarse"
    signals = frozenset({SALIENCY})
    needs_text = True

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep what the method keeps of the tokens that are encoded."""
        return self.fine.select(only(tokens, self.encoded(tokens)), budget)

    def encoded(self, tokens: VisualTokens) -> Tensor:
        """Return (I, N), true for tokens of the thumbnail and of the tiles that are encoded."""
        # crop 0 is the thumbnail, 1 … T are the tiles
        crops = [coordinates[:, 0] for coordinates in tokens.coordinates]
        crop = pad_sequence(crops, batch_first=True, padding_value=-1)  # (I, N)

        # the thumbnail alone is scored
        seen = crop == 0  # (I, N)
        thumbnail = only(tokens, seen)
        relevance, saliency = self.fine.relevance(thumbnail), thumbnail.saliency  # (I, N) each
        for i, coordinates in enumerate(tokens.coordinates):
            if self.chance:
                generator = torch.Generator().manual_seed(tokens.seeds[i])
                chosen = torch.randperm(TILES, generator=generator) + 1  # (T,)
            else:
                own = seen[i]
                chosen = best_tiles(tile_of(coordinates), relevance[i, own], saliency[i, own])
            # padding is of no crop, and never seen
            seen[i] |= torch.isin(crop[i], chosen[: self.tiles])
        return seen


def only(tokens: VisualTokens, seen: Tensor) -> VisualTokens:
    """Return the tokens as a method finds them if nothing but `seen` (I, N) is encoded."""
    # masked tokens must not count anywhere, whatever a method looks at
    signals = {}
    for signal, values in tokens.signals.items():
        signals[signal] = values.masked_fill(~seen, 0)
    return replace(
        tokens,
        mask=tokens.mask & seen,
        features=tokens.features.masked_fill(~seen[..., None], 0),  # (I, N, D)
        signals=signals,
    )


def best_tiles(tile: Tensor, relevance: Tensor, saliency: Tensor) -> Tensor:
    """Return the tiles 1 … T, those with the largest masses of both lists first.

    They are ordered by the geometric mean of the two masses. That is what the mixture makes largest
    when it splits a budget, and like it needs neither a weight nor a scale.

    Args:
        tile: (n,) the tile that shows the middle of each of the thumbnail's tokens.
        relevance, saliency: (n,) their a_t and a_v.
    """
    # tile 0 would be the thumbnail; the order of products is that of geometric means
    text = tile.bincount(weights=relevance.double())[1:]  # (T,)
    vision = tile.bincount(weights=saliency.double())[1:]  # (T,)
    return (text * vision).argsort(descending=True, stable=True) + 1


@dataclass(frozen=True)
class Clock:
    """Time to the first token, as the FLOPs of tower and prefill of a shape.

    Attributes:
        name: of the shape.
        config: of a model of square crops.
        words: text tokens of the prompt.
    """

    name: str
    config: PreTrainedConfig
    words: int  # M

    @classmethod
    def of(
        cls, name: str, config: PreTrainedConfig, processor: ProcessorMixin, question: str
    ) -> "Clock":
        """Return the clock of a model that is asked a question."""
        prompt = build_text(processor, [question], "cpu")["input_ids"]  # (1, M)
        return cls(name, config, prompt.shape[1])

    @property
    def side(self) -> int:
        """Patches along a crop."""
        tower = self.config.vision_config
        return tower.image_size // tower.patch_size

    def tokens(self, tiles: int) -> int:
        """Return the visual tokens of the thumbnail and so many tiles."""
        return (1 + tiles) * self.side**2

    def vision(self, tiles: int) -> float:
        """Return the FLOPs of the tower."""
        # the tower sees each crop on its own
        crop = (self.side, self.side)
        return flops.vision(self.config, [crop] * (1 + tiles)).flops

    def flops(self, tiles: int, keep: float) -> float:
        """Return the FLOPs of tower and prefill, which reads a share of all the image's tokens."""
        # every layer reads the same: pruning comes before the language model
        length = self.words + num_keep(self.tokens(TILES), keep)
        layers = flops.text_stack(self.config).layers
        return self.vision(tiles) + flops.prefill(self.config, [length] * layers).flops

    def affords(self, budget: float, tiles: int) -> float:
        """Return the largest share of all tokens that can be read in `budget` FLOPs.

        Args:
            budget: of tower and prefill.
            tiles: how many are encoded; of no others can tokens be read.

        Returns:
            0 if not even one token can.
        """
        every = self.tokens(TILES)
        counts = range(1, self.tokens(tiles) + 1)
        # FLOPs grow with the count
        affordable = bisect_right(counts, budget, key=lambda n: self.flops(tiles, n / every))
        return affordable / every
