"""Contact sheets as videos: what a model that reads images is asked about several frames."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.core.visual_tokens import Encoding
from adafv.utils.checks import checked

__all__ = ["as_videos", "on_contact_sheet"]


@checked
def as_videos(encoding: Encoding, grids: Sequence[tuple[int, int]]) -> Encoding:
    """Return encoded contact sheets as methods see a video: the tokens of a frame are its own.

    Only tokens of the finest grid are left to choose from. A thumbnail shows all frames at once,
    which no video has: it is dropped as soon as any token is.

    Args:
        grids: for each image rows and columns of its frames; (1, 1): it is an image.

    Raises:
        ValueError: tokens that lie across the edge of a frame.
    """
    if all(grid == (1, 1) for grid in grids):
        return encoding
    tokens = encoding.tokens
    device = tokens.device
    members: list[Tensor] = []
    coordinates: list[Tensor] = []
    frames: list[int] = []
    for of_image, grid, count in zip(tokens.coordinates, grids, tokens.frames, strict=True):
        if grid == (1, 1):
            members.append(torch.arange(len(of_image)))
            coordinates.append(of_image)
            frames.append(count)
            continue
        in_tile = of_image[:, 0] > 0  # (N,)
        finest = in_tile if in_tile.any() else ~in_tile
        members.append(finest.nonzero()[:, 0])
        coordinates.append(_by_frame(of_image[finest, 1:], grid))
        frames.append(grid[0] * grid[1])

    # what is left of each image, padded to the longest
    counts = tuple(len(index) for index in members)
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]  # (I, n)
    index = pad_sequence(members, batch_first=True).to(device, non_blocking=True)  # (I, n)
    image = torch.arange(len(counts), device=device)[:, None]  # (I, 1)
    seen = replace(
        tokens,
        features=tokens.features[image, index],  # (I, n, D)
        mask=mask.to(device, non_blocking=True),
        counts=counts,
        signals={signal: x[image, index] for signal, x in tokens.signals.items()},
        coordinates=tuple(coordinates),
        frames=tuple(frames),
    )
    patch_indices = []
    for of_image, left, count in zip(encoding.patch_indices, index, counts, strict=True):
        patch_indices.append(of_image[left[:count]])  # (n,)
    return replace(encoding, tokens=seen, patch_indices=patch_indices)


def _by_frame(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return frame, row and column (N, 3) of tokens at rows and columns (N, 2) of a contact sheet.

    Frames are numbered from 1, and lie one below the other, as `Layout` has them.
    """
    cells = cells - cells.amin(0)
    shape = cells.amax(0) + 1  # (2,)
    split = torch.tensor(grid)
    if (shape % split).any():
        rows, columns = shape.tolist()
        raise ValueError(
            f"{rows} × {columns} visual tokens don't divide into {grid[0]} × {grid[1]} frames: ask "
            "this model about other suites"
        )
    side = shape // split
    frame = cells // side  # (N, 2)
    number = frame[:, 0] * grid[1] + frame[:, 1]  # (N,)
    row, column = (cells - frame * side).unbind(1)
    return torch.stack([number + 1, number * side[0] + row, column], dim=1)


@checked
def on_contact_sheet(coordinates: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return where the tokens of a video lie on its contact sheet, as one grid.

    Args:
        coordinates: (N, 3) frame, row and column of all tokens, as `as_videos` has them.
        grid: rows and columns of frames.

    Returns:
        (N, 3) crop, row and column.
    """
    if grid == (1, 1):
        return coordinates
    number = coordinates[:, 0] - 1  # (N,)
    width = int(coordinates[:, 2].max()) + 1
    height = (int(coordinates[:, 1].max()) + 1) // (grid[0] * grid[1])
    row = number // grid[1] * height + coordinates[:, 1] - number * height
    column = number % grid[1] * width + coordinates[:, 2]
    return torch.stack([number + 1, row, column], dim=1)
