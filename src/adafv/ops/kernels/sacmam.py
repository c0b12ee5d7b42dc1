"""SACMAM as one kernel: a launch for a batch, a program for each image.

All of an image stays in the registers of its program. Its two lists of scores and its mask are
read once, its order is written once; between them, 8 bytes a token go through the cache, from the
order of the scores back to that of the tokens. An image of 2,880 tokens is padded to 4,096, and
takes 32 KiB of shared memory to sort and gather them.

The steps are those of `adafv.ops.sacmam.mix`, with two differences:

- a score and its index are one integer, so that a sort needs nothing stable and moves no payload;
- the lists, each sorted, are merged by binary search instead of a third sort.

Prefix sums are fp64 as there. A GPU adds them up as a tree, so that their last bits may differ.
That reorders two gains only where they agree to 12 digits and come from different sums. The kept
tokens are K different ones all the same, since the order is a sort of all tokens.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["mix"]

FIRST = tl.constexpr(torch.finfo(torch.float64).max)  # as in `adafv.ops.sacmam`
LAST = tl.constexpr(0x7FFFFFFF)


def mix(
    relevance: Tensor, saliency: Tensor, limits: Tensor, mask: Tensor, *, beyond: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix as `adafv.ops.sacmam.mix` does.

    Args:
        relevance: (B, N) non-negative, N at most `adafv.ops.kernels.LONGEST`.
        saliency: (B, N) non-negative.
        limits: (2, B) integers on the same device: of each row K, and how many tokens either list
            is sure of.
        mask: (B, N), true where there is a token.
        beyond: the mass begins behind the tokens that a list is sure of.

    Returns:
        (B, N) the order; (B,) k_t; (B,) k_v.
    """
    images, count = relevance.shape
    block = max(triton.next_power_of_2(count), 32)
    turns = relevance.new_empty(images, 2, count, dtype=torch.int32)
    order = torch.empty_like(turns[:, 0], dtype=torch.int64)  # (B, N)
    split = order.new_empty(2, images)
    # Triton launches on the current device
    with torch.cuda.device_of(relevance):
        _mix[(images,)](
            relevance.contiguous(),
            saliency.contiguous(),
            mask.contiguous(),
            limits.contiguous(),
            turns,
            order,
            split,
            count,
            BEYOND=beyond,
            BLOCK=block,
            num_warps=max(block // 256, 1),
        )
    return order, split[0], split[1]


@triton.jit
def _mix(
    relevance,
    saliency,
    mask,
    limits,
    turns,
    order,
    split,
    count,
    BEYOND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0)
    images = tl.num_programs(0)
    position = tl.arange(0, BLOCK)
    inside = position < count
    row = image * count + position
    there = tl.load(mask + row, mask=inside, other=0) != 0
    budget = tl.load(limits + image)
    reserved = tl.load(limits + images + image)

    # Sort either list, and find by how much each next token multiplies the mass before it.
    score = tl.load(saliency + row, mask=inside, other=0).to(tl.float32)
    v_index, v_gain, _ = _gains(score, there, reserved, BEYOND, BLOCK)
    score = tl.load(relevance + row, mask=inside, other=0).to(tl.float32)
    t_index, t_gain, massless = _gains(score, there, reserved, BEYOND, BLOCK)

    # Without mass in either list relevance goes last.
    nothing = massless & (t_gain < float("inf")) & (t_gain > -float("inf"))
    t_gain = tl.where(nothing, 0.0, t_gain)

    # Merge the lists by gain: a token's turn is its rank, and what goes before it in the other.
    v_turn = position + tl.minimum(_ahead(v_gain, t_gain, BLOCK, False), count)
    t_turn = position + tl.minimum(_ahead(t_gain, v_gain, BLOCK, True), count)

    # A token arrives at the earlier of its two turns.
    turn = turns + image * 2 * count
    tl.store(turn + v_index, v_turn, mask=v_index < count)
    tl.store(turn + count + t_index, t_turn, mask=t_index < count)
    tl.debug_barrier()
    by_saliency = tl.load(turn + position, mask=inside, other=0)
    by_relevance = tl.load(turn + count + position, mask=inside, other=0)
    arrival = tl.where(there, tl.minimum(by_saliency, by_relevance), 2 * count)

    # The K tokens that arrive first are the union.
    admitted = tl.sort(arrival.to(tl.int64) * BLOCK + position)
    tl.store(order + row, admitted % BLOCK, mask=inside)

    # k_t and k_v: how many turns either list has had when the K-th token arrives.
    kth = tl.minimum(tl.maximum(budget - 1, 0), count - 1)
    last = tl.sum(tl.where(position == kth, admitted // BLOCK, 0))
    tl.store(split + image, tl.sum(((t_turn <= last) & inside).to(tl.int64)))
    tl.store(split + images + image, tl.sum(((v_turn <= last) & inside).to(tl.int64)))


@triton.jit
def _gains(score, there, reserved, BEYOND: tl.constexpr, BLOCK: tl.constexpr):
    """Sort scores (BLOCK,), and weigh each next one against the sum of those before it.

    Returns the indices and the gains in the order of the scores, and whether they have no mass.
    """
    position = tl.arange(0, BLOCK)

    # One integer: the score, NaN the highest and 0 not below -0, then the lower index.
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)
    bits = tl.where(score != score, LAST, bits)
    bits = tl.where(there, bits, -1)
    key = tl.sort((bits.to(tl.int64) << 32) | (LAST - position), descending=True)
    index = LAST - (key & LAST).to(tl.int32)
    ranked = (key >> 32).to(tl.int32).to(tl.float32, bitcast=True).to(tl.float64)
    padding = key < 0

    # P(k), without the reserved tokens where the authors' code leaves them out
    sure = (position < reserved) & ((ranked > 0) | (ranked != ranked))
    counted = tl.where(padding, 0.0, ranked)
    if BEYOND:
        counted = tl.where(sure, 0.0, counted)
    before = tl.gather(tl.cumsum(counted), tl.maximum(position - 1, 0), 0)
    before = tl.where(position == 0, 0.0, before)
    gain = tl.where(before > 0, ranked / before, FIRST)

    # The reserve goes before everything, padding behind everything.
    gain = tl.where(sure, float("inf"), gain)
    gain = tl.where(padding, -float("inf"), gain)
    massless = tl.sum((counted <= 0).to(tl.int32)) == BLOCK
    return index, gain, massless


@triton.jit
def _ahead(gain, others, BLOCK: tl.constexpr, TIES: tl.constexpr):
    """Count the `others`, descending, that are above each gain (BLOCK,), or at it with `TIES`."""
    found = tl.zeros([BLOCK], tl.int32)
    step = BLOCK // 2
    while step > 0:
        other = tl.gather(others, found + step - 1, 0)
        ahead = other >= gain if TIES else other > gain
        found += tl.where(ahead, step, 0)
        step //= 2
    other = tl.gather(others, found, 0)
    ahead = other >= gain if TIES else other > gain
    return found + ahead.to(tl.int32)
