"""Coverage of rows by a growing set of tokens."""

from collections.abc import Generator

from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["Gains", "coverage"]

Gains = Generator[Tensor, Tensor, None]
"""Yields the gain (I, N) of every token, given those picked so far, and is sent the next picks
(I, 1).
"""


@checked
def coverage(rows: Tensor, weight: Tensor | None = None) -> Gains:
    """Yield what each token adds to the coverage of every row, pick after pick.

    The coverage by the tokens S that were picked so far is sum_i max_{j in S} rows[i, j].

    Args:
        rows: (I, R, N), non-negative; 0 where a row or a token is padding.
        weight: (I, N), a factor on the gain of each token. None: 1.
    """
    uncovered = rows.clone()  # (I, R, N) how much a token exceeds what covers a row already
    while True:
        gain = uncovered.sum(1)  # (I, N)
        pick = yield gain if weight is None else gain * weight

        # what the pick covers needs no other token
        covered = uncovered.take_along_dim(pick[:, None], dim=2)  # (I, R, 1)
        uncovered.sub_(covered).relu_()
