"""Coverage of rows by a growing set of tokens."""

from collections.abc import Generator

from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["Gains", "coverage"]

Gains = Generator[Tensor, Tensor, None]
"""Yields the gain (I, N) of every token, given those picked so far, and is sent the next picks (I,
1).
"""


@checked
def coverage(rows: Tensor) -> Gains:
    """Gains of sum_i max_{j in S} rows[i, j], the coverage of every row by the tokens S picked so
    far.

    Args:
        rows: (I, R, N), non-negative; 0 where a row or a token is padding.
    """
    uncovered = rows.clone()
    while True:
        pick = yield uncovered.sum(1)
        uncovered.sub_(uncovered.take_along_dim(pick[:, None], dim=2)).relu_()
