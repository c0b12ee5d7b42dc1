"""Coarse-to-fine: the thumbnail's tokens decide which tiles are encoded at all.

Simulated; and what it saves.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, ProcessorMixin

from adafv.core.pruner import Pruner, Selection
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.adafv import AdaFV
from adafv.methods.hired import tile_of
from adafv.models.prompting import build_text
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

    fine: AdaFV
    tiles: int
    chance: bool = False

    name = "coarse"
    signals = frozenset({SALIENCY})
    needs_text = True

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        return self.fine.select(only(tokens, self.encoded(tokens)), budget)

    def encoded(self, tokens: VisualTokens) -> Tensor:
        """(I, N), true for the tokens of the thumbnail and of the tiles that are encoded."""
        crop = pad_sequence(
            [coordinates[:, 0] for coordinates in tokens.coordinates],
            batch_first=True,
            padding_value=-1,
        )
        seen = crop == 0
        relevance, saliency = self.fine.attentions(only(tokens, seen))
        for i, coordinates in enumerate(tokens.coordinates):
            if self.chance:
                chosen = (
                    torch.randperm(TILES, generator=torch.Generator().manual_seed(tokens.seeds[i]))
                    + 1
                )
            else:
                chosen = best_tiles(
                    tile_of(coordinates), relevance[i, seen[i]], saliency[i, seen[i]]
                )
            seen[i] |= torch.isin(crop[i], chosen[: self.tiles])
        return seen


def only(tokens: VisualTokens, seen: Tensor) -> VisualTokens:
    """The tokens as a method finds them if nothing but `seen` (I, N) is encoded."""
    return replace(
        tokens,
        mask=tokens.mask & seen,
        features=tokens.features.masked_fill(~seen[..., None], 0),
        signals={signal: values.masked_fill(~seen, 0) for signal, values in tokens.signals.items()},
    )


def best_tiles(tile: Tensor, relevance: Tensor, saliency: Tensor) -> Tensor:
    """The tiles 1 … T in descending order of the geometric mean of the masses that both lists have
    under them.

    That is what the mixture makes largest when it splits a budget, and like it needs neither a
    weight nor a scale.

    Args:
        tile: (n,) the tile that shows the middle of each of the thumbnail's tokens.
        relevance, saliency: (n,) their a_t and a_v.
    """
    text, vision = (tile.bincount(weights=list_.double())[1:] for list_ in (relevance, saliency))
    return (text * vision).argsort(descending=True, stable=True) + 1


@dataclass(frozen=True)
class Clock:
    """Time to the first token, as the FLOPs of tower and prefill of a shape.

    Attributes:
        config: of a model of square crops.
        words: tokens of the prompt that are not visual.
    """

    name: str
    config: PreTrainedConfig
    words: int

    @classmethod
    def of(
        cls, name: str, config: PreTrainedConfig, processor: ProcessorMixin, question: str
    ) -> "Clock":
        return cls(name, config, build_text(processor, [question], "cpu")["input_ids"].shape[1])

    @property
    def side(self) -> int:
        """Patches along a crop."""
        return self.config.vision_config.image_size // self.config.vision_config.patch_size

    def tokens(self, tiles: int) -> int:
        """Visual tokens of the thumbnail and so many tiles."""
        return (1 + tiles) * self.side**2

    def vision(self, tiles: int) -> float:
        """FLOPs of the tower."""
        return flops.vision(self.config, [(self.side, self.side)] * (1 + tiles)).flops

    def flops(self, tiles: int, keep: float) -> float:
        """FLOPs of the tower, and of the prefill of that share of all the image's tokens."""
        lengths: Sequence[int] = [self.words + round(keep * self.tokens(TILES))] * flops.text_stack(
            self.config
        ).layers
        return self.vision(tiles) + flops.prefill(self.config, lengths).flops

    def affords(self, budget: float, tiles: int) -> float:
        """The largest share of all tokens that can be read in `budget` FLOPs if so many tiles are
        encoded, at most all of theirs; 0 if not even one token can.
        """
        counts, whole = range(1, self.tokens(tiles) + 1), self.tokens(TILES)
        return (
            bisect_right(counts, budget, key=lambda count: self.flops(tiles, count / whole)) / whole
        )
