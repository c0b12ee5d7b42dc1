"""Coverage of rows by a growing set of tokens."""

from collections.abc import Generator

import torch
from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["Gains", "coverage", "on_grid", "shares"]

GRID = 2.0**50  # coverage is rounded to its inverse

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


@checked
def shares(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Turn logits into probabilities over the columns, divided by the number of real rows.

    Args:
        logits: (I, R, N).
        rows: (I, R), true where a row is no padding.
        columns: (I, N), true where there is a token.

    Returns:
        (I, R, N) fp64.
    """
    absent = columns.logical_not()[:, None]  # (I, 1, N)
    probability = logits.masked_fill(absent, -torch.inf).softmax(-1)  # (I, R, N)
    weight = rows.double() / rows.sum(1, keepdim=True).clamp(min=1)  # (I, R)
    return probability * weight[..., None]


@checked
def on_grid(rows: Tensor) -> Tensor:
    """Round rows of a coverage, in place, so that their sums are exact and no pick hangs on them.

    Args:
        rows: of any shape, with sums of 8 at most.

    Returns:
        The same tensor.
    """
    return rows.mul_(GRID).round_().div_(GRID)
