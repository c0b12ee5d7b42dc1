"""Greedy coverage with a kernel: a launch for each pick, a program for each tile of tokens.

A launch takes the last pick into what is covered and adds up the gains anew: it reads every column
once, in the order in which it lies in memory, and writes nothing but N gains. `plain_coverage`
keeps a copy of the columns besides, which it reads and writes twice for each pick. What is covered,
R numbers of each image, comes from the L2 cache for all programs but the first. A tile is 32 KiB
in registers; shared memory serves the sum over its rows alone.

The columns' sums are exact, hence the gains are the same in any order of summation.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from adafv.ops.coverage import Gains

__all__ = ["coverage"]

TOKENS = 16  # of a tile
ROWS = 256  # of it at a time
NAN = tl.constexpr(tl.PropagateNan.ALL)  # as in PyTorch


def coverage(columns: Tensor, weight: Tensor) -> Gains:
    """Yield all gains, as `adafv.ops.coverage.plain_coverage` does.

    Args:
        columns: (I, N, R) fp64.
        weight: (I, N) fp64.
    """
    images, count, rows = columns.shape
    columns = columns.contiguous()
    weight = weight.contiguous()
    covered = torch.zeros_like(columns[:, 0])  # (I, R) by the picks so far

    # nothing is covered before the first pick
    pick = yield columns.sum(2) * weight
    tiles = (triton.cdiv(count, TOKENS), images)
    while True:
        gain = torch.empty_like(columns[..., 0])  # (I, N)
        # Triton launches on the current device
        with torch.cuda.device_of(columns):
            _gains[tiles](
                columns,
                weight,
                covered,
                pick.contiguous(),
                gain,
                count,
                rows,
                TOKENS=TOKENS,
                ROWS=ROWS,
            )
        pick = yield gain


@triton.jit
def _gains(
    columns,
    weight,
    covered,
    pick,
    gain,
    count,
    rows,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
):
    tile = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)  # N · R of a video goes beyond 32 bits
    token = tile * TOKENS + tl.arange(0, TOKENS)
    there = token < count
    column = columns + (image * count + token[:, None]) * rows
    picked = columns + (image * count + tl.load(pick + image)) * rows
    cover = covered + image * rows

    total = tl.zeros([TOKENS], tl.float64)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = row < rows

        # All programs find the same maximum, whether the first has written it yet or not.
        before = tl.load(cover + row, mask=inside, other=0.0)
        last = tl.load(picked + row, mask=inside, other=0.0)
        now = tl.maximum(before, last, propagate_nan=NAN)
        tl.store(cover + row, now, mask=inside & (tile == 0))

        value = tl.load(column + row[None], mask=there[:, None] & inside[None], other=0.0)
        exceeds = tl.maximum(value - now[None], 0.0, propagate_nan=NAN)
        total += tl.sum(exceeds, axis=1)

    factor = tl.load(weight + image * count + token, mask=there, other=0.0)
    tl.store(gain + image * count + token, total * factor, mask=there)
