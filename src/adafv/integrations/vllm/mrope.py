"""Tell vLLM's language model where kept visual tokens lie in their image (M-RoPE)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["CHANNELS", "coordinates_of", "mrope_positions", "with_coordinates"]

DIGIT = 128  # rows and columns travel as two digits each: bfloat16 holds integers up to 256
CHANNELS = 4  # two digits of the row, two of the column


def with_coordinates(features: Tensor, coordinates: Tensor) -> Tensor:
    """Return features (K, D) with their rows and columns (K, 2) as digits behind: (K, D + 4)."""
    # (K, 2, 2) → (K, 4): row high, row low, column high, column low
    digits = torch.stack([coordinates // DIGIT, coordinates % DIGIT], dim=-1).flatten(1)
    return torch.cat([features, digits.to(features)], dim=1)


def coordinates_of(features: Tensor) -> Tensor:
    """Return the rows and columns (K, 2), int64, that `with_coordinates` put behind features."""
    # (K, 4) → (K, 2, 2): coordinate, digit
    digits = features[:, -CHANNELS:].long().unflatten(1, (2, 2))
    high, low = digits.unbind(-1)
    return high * DIGIT + low  # (K, 2)


def mrope_positions(
    length: int,
    spans: Sequence[tuple[int, int]],
    grids: Sequence[tuple[tuple[int, int, int], float]],
) -> tuple[Tensor, int]:
    """Return position ids of a prompt of which not every visual token is kept.

    Text has the positions it has in the dense prompt. An image of which every token is kept has
    its grid's; in one that is pruned, each token has the position of the first, to which its row
    and column are to be added.

    Args:
        length: of the prompt.
        spans: start and number of the tokens of each image or video, in order.
        grids: for each how many tokens it has along time, height and width before pruning, and how
            far two steps of time are apart.

    Returns:
        (3, L) and what the position of the next token exceeds its index by.
    """
    parts: list[np.ndarray] = []
    done = 0  # tokens of the prompt that have positions
    start = 0  # position of the next token
    for (offset, count), (grid, step) in zip(spans, grids, strict=True):
        # text up to the image
        parts.append(_text(start, offset - done))
        start += offset - done

        # the image: (3, time · height · width)
        positions = np.indices(grid).reshape(3, -1)
        positions[0] = (positions[0] * step).astype(np.int64)
        if positions.shape[1] == count:
            parts.append(start + positions)
        else:
            parts.append(np.full((3, count), start, dtype=np.int64))

        # text after it continues behind the largest position, pruned or not
        start += int(positions.max()) + 1
        done = offset + count
    parts.append(_text(start, length - done))
    return torch.from_numpy(np.concatenate(parts, axis=1)), start - done


def _text(start: int, count: int) -> np.ndarray:
    """Return positions (3, count) of text, the same in all three rows."""
    return np.broadcast_to(np.arange(start, start + count), (3, count))
