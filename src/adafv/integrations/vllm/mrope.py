"""Tell vLLM's language model where kept visual tokens lie in their image or video (M-RoPE)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "CHANNELS",
    "Span",
    "coordinates_of",
    "dense_tokens",
    "pruned_positions",
    "with_coordinates",
]

AXES = 3  # time, row and column
DIGIT = 256  # coordinates travel as two digits each: bfloat16 holds integers up to 256
CHANNELS = 2 * AXES


def with_coordinates(features: Tensor, coordinates: Tensor) -> Tensor:
    """Return features (K, D) with times, rows and columns (K, 3) as digits behind: (K, D + 6)."""
    # (K, 3, 2) → (K, 6): time high, time low, row high, row low, column high, column low
    digits = torch.stack([coordinates // DIGIT, coordinates % DIGIT], dim=-1).flatten(1)
    return torch.cat([features, digits.to(features)], dim=1)


def coordinates_of(features: Tensor) -> Tensor:
    """Return the coordinates (K, 3), int64, that `with_coordinates` put behind features."""
    # (K, 6) → (K, 3, 2): coordinate, digit
    digits = features[:, -CHANNELS:].long().unflatten(1, (AXES, 2))
    high, low = digits.unbind(-1)
    return high * DIGIT + low  # (K, 3)


@dataclass(frozen=True)
class Span:
    """The placeholders of an image or a video in a prompt.

    Attributes:
        start: index of the first.
        kept: how many there are.
        count: how many there are in the dense prompt.
        ids: all of them in the dense prompt, with what stands among them. Empty: the first one,
            repeated.
    """

    start: int
    kept: int
    count: int
    ids: tuple[int, ...] = ()

    @property
    def dropped(self) -> int:
        """Return how many visual tokens are dropped."""
        return self.count - self.kept


def dense_tokens(tokens: Sequence[int], spans: Sequence[Span]) -> list[int]:
    """Return the ids of the dense prompt, from those (L,) of a pruned one.

    Args:
        spans: of its images and videos, in order.
    """
    parts: list[int] = []
    done = 0  # tokens of the prompt that are copied
    for span in spans:
        parts += tokens[done : span.start]
        parts += span.ids or [tokens[span.start]] * span.count
        done = span.start + span.kept
    parts += tokens[done:]
    return parts


def pruned_positions(positions: Tensor, spans: Sequence[Span]) -> Tensor:
    """Return position ids (3, L) of a pruned prompt, from those of the dense one.

    Text has the positions it has in the dense prompt, and so has an image of which every token is
    kept. In one that is pruned, each token has the position of the first, to which its time, row
    and column are to be added.

    Args:
        positions: (3, L') of the dense prompt.
        spans: of its images and videos, in order.
    """
    parts = []
    done = 0  # tokens of the dense prompt that are copied
    shift = 0  # tokens that are dropped before
    for span in spans:
        start = span.start + shift
        if span.dropped:
            parts.append(positions[:, done:start])
            parts.append(positions[:, start : start + 1].expand(-1, span.kept))
            done = start + span.count
        shift += span.dropped
    parts.append(positions[:, done:])
    return torch.cat(parts, dim=1)
