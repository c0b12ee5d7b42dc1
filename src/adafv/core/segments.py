"""Tell sequences that are packed into one row of a batch apart."""

import torch
from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["segment_starts", "segments_of"]


@checked
def segments_of(positions: object, mask: Tensor) -> Tensor:
    """Return the number (B, L) of the packed sequence that each token belongs to.

    As the model tells them: a sequence begins where position ids don't go up by one.
    """
    if isinstance(positions, Tensor) and positions.dim() == 3 and len(positions) == 4:
        positions = positions[0]  # of M-RoPE's channels the first counts tokens: (B, L)
    if not isinstance(positions, Tensor) or positions.dim() != 2:
        return torch.zeros_like(mask, dtype=torch.long)
    if positions.shape[-1] != mask.shape[1]:
        return torch.zeros_like(mask, dtype=torch.long)
    columns: Tensor = positions.cpu()
    steps = columns.diff(prepend=columns[:, :1] - 1)  # (B, L)
    return steps.ne(1).long().cumsum(1).expand(mask.shape)


@checked
def segment_starts(segments: Tensor) -> Tensor:
    """Return the column (B, L) in which the segment of each token begins."""
    begins = segments.diff(prepend=segments[:, :1] - 1) != 0  # (B, L)
    columns = torch.arange(segments.shape[1]).expand_as(segments)
    return columns.where(begins, 0).cummax(1).values
