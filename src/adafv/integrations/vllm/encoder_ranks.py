"""Share out images among ranks that each have the whole vision tower: `--mm-encoder-tp-mode data`.

vLLM does so inside its models, where a rank observes the attention to its own images alone.
"""

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor
from vllm.distributed import get_tp_group
from vllm.multimodal.inputs import MultiModalKwargsItem

__all__ = ["encode_by_rank", "on_any_rank", "shares"]

Observed = tuple[Tensor, Tensor]
"""Tokens (n, D) and saliency (patches,) of an image."""


def encode_by_rank(
    encode: Callable[[Sequence[MultiModalKwargsItem]], list[Observed]],
    items: Sequence[MultiModalKwargsItem],
    sizes: Sequence[int],
) -> list[Observed]:
    """Return what is observed of each image, encoded by one rank and sent to the others.

    Args:
        encode: runs some of the images through this rank's tower.
        items: inputs of the images, the same on every rank.
        sizes: patches of each.
    """
    group = get_tp_group()
    shared = shares(sizes, group.world_size)
    device = group.device
    own = shared[group.rank_in_group]
    encoded = encode([items[i] for i in own]) if own else []
    # tokens and saliency by turns
    tensors = [tensor.contiguous() for tensor in chain.from_iterable(encoded)]

    # what the others will send: sizes differ from image to image
    kinds: list[list[tuple[torch.Size, torch.dtype]]] = [[] for _ in shared]
    own_kinds = [(tensor.shape, tensor.dtype) for tensor in tensors]
    torch.distributed.all_gather_object(kinds, own_kinds, group=group.cpu_group)

    found: dict[int, Observed] = {}
    for rank, images in enumerate(shared):
        sent = tensors
        if rank != group.rank_in_group:
            sent = [torch.empty(size, dtype=dtype, device=device) for size, dtype in kinds[rank]]
        for tensor in sent:
            torch.distributed.broadcast(tensor, group.ranks[rank], group=group.device_group)
        found |= zip(images, zip(sent[::2], sent[1::2], strict=True), strict=True)
    return [found[image] for image in range(len(items))]


def shares(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Return which images each rank encodes: the largest first, each where least is to be done."""
    shared: list[list[int]] = [[] for _ in range(ranks)]
    work = [0] * ranks
    for image in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        rank = work.index(min(work))
        shared[rank].append(image)
        work[rank] += sizes[image]
    return shared


def on_any_rank(failed: bool) -> bool:
    """Return whether a method has failed on any rank, each of which asks at the same time."""
    group = get_tp_group()
    if group.world_size == 1:
        return failed
    flag = torch.tensor(int(failed))
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group.cpu_group)
    return bool(flag)
