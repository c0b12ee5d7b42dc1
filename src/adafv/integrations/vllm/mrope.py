"""M-RoPE on vLLM: where the visual tokens that stay lie, told to the language model along with
them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["CHANNELS", "numbered", "places_of", "with_places"]

DIGIT = 128  # rows and columns travel as two digits each: bfloat16 holds integers up to 256
CHANNELS = 4


def with_places(features: Tensor, coordinates: Tensor) -> Tensor:
    """(k, D + 4) features (k, D) and, as digits, their rows and columns (k, 2)."""
    digits = torch.stack([coordinates // DIGIT, coordinates % DIGIT], dim=-1).flatten(1)
    return torch.cat([features, digits.to(features)], dim=1)


def places_of(features: Tensor) -> Tensor:
    """(k, 2) int64 rows and columns that `with_places` put beside features (k, D + 4)."""
    high, low = features[:, -CHANNELS:].long().unflatten(1, (2, 2)).unbind(-1)
    return high * DIGIT + low


def numbered(
    length: int,
    spans: Sequence[tuple[int, int]],
    grids: Sequence[tuple[tuple[int, int, int], float]],
) -> tuple[Tensor, int]:
    """Position ids of a prompt of which not every visual token stays.

    Text has the numbers it has in the whole prompt. An image that is whole has its grid's; of one
    that isn't, each token has the number of the first, to which its row and column are to be added.

    Args:
        length: of the prompt.
        spans: start and number of the tokens of each image or clip, in order.
        grids: for each how many tokens it has along time, height and width when whole, and how far
            two steps of time are apart.

    Returns:
        (3, length) and what the number of the next token exceeds its index by.
    """
    parts: list[np.ndarray] = []
    done, start = 0, 0
    for (offset, count), (grid, step) in zip(spans, grids, strict=True):
        parts.append(_text(start, offset - done))
        start += offset - done
        places = np.indices(grid).reshape(3, -1)
        places[0] = (places[0] * step).astype(np.int64)
        parts.append(
            start + (places if places.shape[1] == count else np.zeros((3, count), dtype=np.int64))
        )
        start += int(places.max()) + 1
        done = offset + count
    parts.append(_text(start, length - done))
    return torch.from_numpy(np.concatenate(parts, axis=1)), start - done


def _text(start: int, count: int) -> np.ndarray:
    return np.broadcast_to(np.arange(start, start + count), (3, count))
