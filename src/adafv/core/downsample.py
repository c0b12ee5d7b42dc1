"""Smaller images for the vision tower: K tokens instead of the N of the full image.

The prompt keeps N placeholders for the moment. The features of the small image stand where the
middles of its patches lie in the full one, so that whoever drops the other tokens has the prompt of
the small image, with positions, labels and caches as for any choice of tokens.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from adafv.ops.budget import BudgetError
from adafv.utils.checks import checked

__all__ = ["grid_within", "interpolation", "middles", "smaller", "spread"]

LONGEST = 1.5  # sides of a smaller image, relative to each other and to those of the full one


@checked
def grid_within(rows: int, columns: int, budget: int) -> tuple[int, int]:
    """Return rows and columns of the finest grid of at most `budget` cells, the squarest of those.

    Args:
        rows, columns: of the full image.
        budget: K, at least 1.
    """
    best = (1, 1)
    for height in range(1, rows + 1):
        for width in range(1, columns + 1):
            # how much the image is squeezed along one side
            squeeze = (height * columns) / (width * rows)
            fits = height * width <= budget and 1 / LONGEST <= squeeze <= LONGEST
            if fits and _fineness(height, width) > _fineness(*best):
                best = (height, width)
    return best


def _fineness(height: int, width: int) -> tuple[int, int]:
    return height * width, -abs(height - width)


@checked
def middles(rows: int, columns: int, grid: tuple[int, int]) -> Tensor:
    """Return which tokens of a full image show the middles of the cells of a smaller grid.

    Returns:
        (K,) indices, ascending, unique.
    """
    height, width = grid
    row = (torch.arange(height) * 2 + 1) * rows // (2 * height)  # (height,)
    column = (torch.arange(width) * 2 + 1) * columns // (2 * width)  # (width,)
    return (row[:, None] * columns + column).flatten()


@checked
def smaller(
    model: PreTrainedModel, inputs: Mapping[str, Any], budget: Callable[[int], int]
) -> tuple[dict[str, Any], tuple[int, int], tuple[int, int]]:
    """Shrink the images of a batch until the tower makes at most K tokens of each.

    Args:
        inputs: what the processor returned, one crop an image: `pixel_values` (I, 3, H, W).
        budget: gives K of N.

    Returns:
        The inputs with smaller images, and rows and columns of the full and of the smaller grid.

    Raises:
        BudgetError: images of several crops, or without a grid of square patches.
    """
    pixels: Any = inputs.get("pixel_values")
    patch: Any = getattr(getattr(model.config, "vision_config", None), "patch_size", None)
    one_crop = isinstance(pixels, Tensor) and pixels.dim() == 4 and isinstance(patch, int)
    if not one_crop or inputs.get("image_sizes") is not None:
        raise BudgetError(
            "images are shrunk where each is one crop of square patches, as in LLaVA-1.5; those of "
            f"this {model.config.model_type!r} model are not: choose another method, e.g. pool"
        )
    rows, columns = (side // patch for side in pixels.shape[-2:])
    grid = grid_within(rows, columns, budget(rows * columns))
    size = (grid[0] * patch, grid[1] * patch)
    small = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True)  # (I, 3, h, w)
    return {**inputs, "pixel_values": small.to(pixels.dtype)}, (rows, columns), grid


@checked
def interpolation(tower: PreTrainedModel) -> dict[str, bool]:
    """Return what a vision tower has to be told to take images of another size than its own."""
    known = inspect.signature(tower.forward).parameters
    # DINOv2's interpolates its position embeddings unasked
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}


@checked
def spread(
    output: ModelOutput, field: str, full: tuple[int, int], grid: tuple[int, int]
) -> ModelOutput:
    """Put the features of small images where their middles lie in the full ones, 0 elsewhere.

    Args:
        output: of the model's encoder.
        field: its features (k, D) of each image.
        full, grid: rows and columns of the full and of the small images.

    Raises:
        BudgetError: the encoder makes another number of tokens than the grid has cells.
    """
    at = middles(*full, grid)
    wide = []
    for features in output[field]:
        if len(features) != len(at):
            raise BudgetError(
                f"an image shrunk to {grid[0]} x {grid[1]} patches has become {len(features)} "
                "tokens: choose another method, e.g. pool"
            )
        empty = features.new_zeros(full[0] * full[1], features.shape[-1])  # (N, D)
        wide.append(empty.index_copy(0, at.to(features.device), features))
    output[field] = torch.stack(wide) if isinstance(output[field], Tensor) else wide
    return output
