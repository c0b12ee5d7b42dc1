"""Crops and layouts: which visual token shows which patches of an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["Crop", "Layout", "blocks", "grid_coordinates", "join", "prepended", "raster"]


@checked
@dataclass(frozen=True)
class Crop:
    """The part of an image that the tower saw at once, and the visual tokens it became.

    Attributes:
        patches: (height · width, m) int64, which of the crop's patches each visual token is made
            of.
        height, width: of the grid of visual tokens.
        size: patches that the tower has of the crop, its padding included.
    """

    patches: Tensor
    height: int
    width: int
    size: int


@checked
@dataclass(frozen=True)
class Layout:
    """The placeholders of one image.

    Attributes:
        patches: (n, m) int64, which of the image's patches, crop after crop in the tower's order,
            each placeholder stands for; -1 for a token that is no patch (a newline).
        coordinates: (n, 3) int64, crop, row and column of each. Crops are counted in the order of
            the tower, but 0 is always a thumbnail, or all there is. Row and column run over one
            image at one scale: the tiles of a grid share theirs, a thumbnail has its own.
        size: patches that the tower has of the image.
        frames: of a video.
    """

    patches: Tensor
    coordinates: Tensor
    size: int
    frames: int = 1

    @property
    def patch_indices(self) -> Tensor:
        """Return which of the n placeholders stand for patches: (N,)."""
        return (self.patches[:, 0] >= 0).nonzero()[:, 0]

    @property
    def structural_indices(self) -> Tensor:
        """Return which of the n placeholders stand for no patch: (n - N,)."""
        return (self.patches[:, 0] < 0).nonzero()[:, 0]

    def pooled(self, seen: Tensor, tokens: Tensor) -> Tensor:
        """Return what some tokens (N,) showed: (N, …), the mean over their patches.

        Args:
            seen: (size, …) what all patches showed.
        """
        patches = self.patches[tokens].to(seen.device, non_blocking=True)  # (N, m)
        return seen[patches].mean(1)  # (N, m, …) -> (N, …)


@checked
def join(crops: Sequence[Crop], thumbnail: int | None = None, frames: int = 1) -> Layout:
    """Return the layout of an image of several crops, or of a video of several frames.

    Crops lie one below the other.

    Args:
        thumbnail: index of the crop that shows all of the image. None: no crop does.
    """
    overview = None if thumbnail is None else thumbnail % len(crops)
    patches: list[Tensor] = []
    coordinates: list[Tensor] = []
    start = 0  # the crop's first patch
    top = 0  # the crop's first row
    for i, crop in enumerate(crops):
        in_crop = grid_coordinates(crop.height, crop.width)  # (N, 2)
        if i == overview or len(crops) == 1:
            number = 0
        else:
            # 0 is left to the thumbnail, wherever it comes
            number = i + 1 if overview is None or i < overview else i
            in_crop = in_crop + torch.tensor([top, 0])
            top += crop.height
        numbers = torch.full((len(in_crop), 1), number)
        coordinates.append(torch.cat([numbers, in_crop], dim=1))  # (N, 3)
        patches.append(crop.patches + start)  # (N, m)
        start += crop.size
    return Layout(torch.cat(patches), torch.cat(coordinates), start, frames)


@checked
def prepended(x: Tensor, lead: int) -> Tensor:
    """Return (…, lead + n, m): `lead` tokens that are no patches, -1 each, and x (…, n, m).

    Without the first one of x where lead is -1.
    """
    return F.pad(x, (0, 0, lead, 0), value=-1)


@checked
def raster(height: int, width: int, merge: int = 1, size: int | None = None) -> Crop:
    """Return a crop of height · width tokens in raster order, each of merge · merge patches.

    The tower reads the patches in raster order, too.

    Args:
        size: patches that the tower has of the crop. None: those of the tokens.
    """
    index = torch.arange(height * width * merge**2)
    index = index.view(height, merge, width, merge).transpose(1, 2)  # (height, width, merge, merge)
    patches = index.reshape(height * width, -1)  # (height · width, merge²)
    return Crop(patches, height, width, size or index.numel())


@checked
def blocks(height: int, width: int, merge: int = 1) -> Crop:
    """Return a crop as `raster` does, of a tower that reads a token's patches one after another."""
    index = torch.arange(height * width * merge**2)
    patches = index.view(height * width, -1)  # (height · width, merge²)
    return Crop(patches, height, width, index.numel())


@checked
def grid_coordinates(rows: int, columns: int) -> Tensor:
    """Return row and column (rows · columns, 2) of the cells of a grid, in raster order."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
