"""Coverage of rows by a growing set of tokens."""

from collections.abc import Generator

import torch
from torch import Tensor

from adafv.ops.kernels import wanted
from adafv.ops.precision import rounded
from adafv.utils.checks import checked

__all__ = ["Gains", "coverage", "lazy_coverage", "on_grid", "plain_coverage"]

BITS = 50  # behind the point of a coverage

Gains = Generator[Tensor, Tensor, None]
"""Yields the gain (I, N) of every token, given those picked so far, and is sent the next picks
(I, 1).
"""
BLOCK = 32  # gains that the lazy form brings up to date at a time


@checked
def coverage(columns: Tensor, weight: Tensor | None = None) -> Gains:
    """Yield what each token adds to the coverage of every row, pick after pick.

    The coverage by the tokens S that were picked so far is sum_i max_{j in S} columns[j, i]. On a
    CPU most gains are upper bounds, the largest ones never, see `lazy_coverage`.

    Args:
        columns: (I, N, R), what each token is to each row: non-negative, 0 where a row or a token
            is padding, and such that sums are exact: of a token, and of what covers the rows.
        weight: (I, N), a factor on the gain of each token, 0 or more. None: 1.
    """
    if weight is None:
        weight = torch.ones_like(columns[..., 0])  # (I, N)
    if wanted(columns.device):
        from adafv.ops.kernels import coverage as kernel  # imports Triton

        return kernel.coverage(columns, weight)
    lazy = columns.device.type == "cpu"  # elsewhere the host would wait for the device
    return lazy_coverage(columns, weight) if lazy else plain_coverage(columns, weight)


@checked
def plain_coverage(columns: Tensor, weight: Tensor) -> Gains:
    """Yield all gains, computed anew for each pick: K steps over all N · R values."""
    uncovered = columns.clone()  # (I, N, R) how much a token exceeds what covers a row already
    while True:
        pick = yield uncovered.sum(2) * weight  # (I, N)

        # what the pick covers needs no other token
        covered = uncovered.take_along_dim(pick[..., None], dim=1)  # (I, 1, R)
        uncovered.sub_(covered).relu_()


@checked
def lazy_coverage(columns: Tensor, weight: Tensor) -> Gains:
    """Yield upper bounds of the gains; those that equal or exceed any other gain are exact.

    Lazy greedy (Michel Minoux, "Accelerated greedy algorithms for maximizing submodular set
    functions", 1978): a gain only falls, so that what a token gained at an earlier pick bounds what
    it gains now. Only tokens whose bound reaches the best gain are looked at again; the picks are
    those of `plain_coverage`, ties too.
    """
    images, count, rows = columns.shape
    block = min(BLOCK, count)
    flat = columns.view(-1, rows)  # (I · N, R)
    first = count * torch.arange(images)[:, None]  # (I, 1) where an image begins in it
    some = columns.new_empty(images * block, rows)
    covered = torch.zeros_like(columns[:, :1])  # (I, 1, R) by the picks so far

    # before the first pick nothing bounds the gains but they themselves
    bound = columns.sum(2) * weight  # (I, N)
    while True:
        pick = yield bound
        covered = covered.maximum(flat[first + pick])
        before = covered.sum(2)  # (I, 1)

        # from the highest bound down, until none that is left can reach the best gain
        stale = bound.where(bound > 0, -1)  # (I, N)
        best = torch.zeros_like(weight[:, :1])  # (I, 1)
        while (stale >= best).any():
            top = stale.topk(block).indices  # (I, block)
            torch.index_select(flat, 0, (first + top).view(-1), out=some)
            after = some.view(images, block, rows).clamp_(min=covered)  # (I, block, R)
            gain = (after.sum(2) - before) * weight.gather(1, top)  # (I, block)
            best = best.maximum(gain.amax(1, keepdim=True))
            bound = bound.scatter(1, top, gain)
            stale.scatter_(1, top, -1)


@checked
def on_grid(columns: Tensor) -> Tensor:
    """Round what a coverage adds up, in place: its sums are exact then, and no pick hangs on them.

    Args:
        columns: of any shape, with sums of 8 at most, be it of a token or of what covers rows.

    Returns:
        The same tensor.
    """
    return rounded(columns, BITS)
