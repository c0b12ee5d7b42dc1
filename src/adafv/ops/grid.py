"""Divide an image into K cells: for methods that only look at the grid coordinates of tokens.

Known on the host, from shapes.
"""

import math

import torch
from torch import Tensor

from adafv.ops.budget import split_budget
from adafv.utils.checks import checked

__all__ = ["cells", "places"]


@checked
def cells(coordinates: Tensor, count: int, frames: int = 1) -> Tensor:
    """Divide an image's tokens into `count` compact cells of nearly equal size, none empty.

    The thumbnail and the grid of tiles, or the frames of a video, are divided each on its own, in
    proportion to their tokens: into bands of rows, and each band into stretches of columns. With
    fewer cells than frames a video is divided as one tall image.

    Args:
        coordinates: (N, 3) crop, row, column of each token.
        count: number of cells, 1 <= count <= N.
        frames: F of a video, whose crops are its frames, 1 to F; 1: an image.

    Returns:
        (N,) the cell of each token, 0 … count - 1; -1 on a grid that gets no cell.
    """
    scales = _scales(coordinates)
    if 1 < frames <= count:
        scales = [coordinates[:, 0] == frame for frame in coordinates[:, 0].unique()]
    sizes = [int(scale.sum()) for scale in scales]
    shares = split_budget(count, sizes)

    cell = torch.full((len(coordinates),), -1)  # (N,)
    start = 0
    for scale, share in zip(scales, shares, strict=True):
        if share:
            cell[scale] = start + _divide(coordinates[scale, 1:], share)
        start += share
    return cell


@checked
def places(coordinates: Tensor, frames: int = 1, size: tuple[int, int] | None = None) -> Tensor:
    """Return where the middle of each token's patch is, as shares of the image's height and width.

    The thumbnail and the tiles show the same image, and the frames of a video lie one upon the
    other: what shows one place has one place.

    Args:
        coordinates: (N, 3) crop, row, column of each token.
        frames: F of a video, whose frames stand one below the other; 1: an image.
        size: rows and columns of a frame that stands alone, of which tokens may be lacking. None:
            the image is as large as its tokens reach.

    Returns:
        (N, 2) y and x, fp64, between 0 and 1.
    """
    if size is not None:
        return (coordinates[:, 1:] + 0.5).double() / torch.tensor(size)
    if frames > 1:
        # the first frame is whole; later ones may lack what they repeat
        frame = (coordinates[:, 0] - 1).clamp(min=0)  # (N,)
        own = coordinates[:, 1:].clone()  # (N, 2)
        whole = own[frame == 0].amax(0) + 1  # (2,)
        own[:, 0] -= frame * whole[0]
        return (own + 0.5).double() / whole

    place = torch.empty(len(coordinates), 2, dtype=torch.float64)
    for scale in _scales(coordinates):
        own = coordinates[scale, 1:] - coordinates[scale, 1:].amin(0)  # (n, 2)
        whole = own.amax(0) + 1  # (2,)
        place[scale] = (own + 0.5).double() / whole
    return place


def _scales(coordinates: Tensor) -> list[Tensor]:
    """Return which tokens (N,) are the thumbnail's and which the tiles', where there are any."""
    thumbnail = coordinates[:, 0] == 0
    return [scale for scale in (thumbnail, ~thumbnail) if scale.any()]


def _divide(coordinates: Tensor, count: int) -> Tensor:
    """Divide one grid (n, 2) into bands of rows, and each band into stretches of columns."""
    corner = coordinates.amin(0)
    row, column = (coordinates - corner).unbind(1)  # (n,)
    height = int(row.max()) + 1
    width = int(column.max()) + 1
    # no rectangle, as a video is without what repeats: stretches of tokens in reading order
    if height * width != len(coordinates):
        return torch.arange(len(coordinates)) * count // len(coordinates)

    # as many bands as make the cells square, and enough that no band has more cells than columns
    square = round(math.sqrt(count * height / width))
    bands = max(math.ceil(count / width), min(height, count, square))
    band = row * bands // height  # (n,)

    # the cells of each band, and the number of its first one
    across = torch.full((bands,), count // bands)
    across[: count % bands] += 1
    first = across.cumsum(0) - across
    return first[band] + column * across[band] // width
