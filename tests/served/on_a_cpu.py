"""What vLLM leaves out on a CPU, and models of Gemma need: attention both ways, a size of memory.

The ranges in which visual tokens see each other are vLLM's own, of the prompt as it was written,
and so is which layers they hold for; only what a GPU's kernel makes of them is computed here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from llvmlite.binding import ffi
from torch import Tensor
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackendImpl,
    CPUAttentionMetadataBuilder,
)

# vLLM looks for kernels in the __dict__ of all that there is. Numba, with which it prepares images
# of Kimi K2.5, has an object that makes a function of every name.
ffi.lib._fntab["__dict__"] = {}

MEMORY = (2 * 2 * 280 * 4 * 64 * 8, 20 * 2 * 280 * 4 * 64 * 8)
"""What is free and what there is, in bytes: enough for two tiny images of Gemma 4 at once."""


@contextmanager
def as_on_a_gpu(*, both_ways: bool) -> Iterator[None]:
    """Say how much memory there is, and let visual tokens see each other.

    Args:
        both_ways: they do in this model.
    """
    if torch.accelerator.is_available():
        yield
        return
    build = CPUAttentionMetadataBuilder.build
    forward = CPUAttentionBackendImpl.forward
    update = CPUAttentionBackendImpl.do_kv_cache_update

    def built(self: Any, common_prefix_len: int, common: Any, **options: Any) -> Any:
        metadata = build(self, common_prefix_len, common, **options)
        # where models look for them
        metadata.mm_prefix_range = common.mm_req_doc_ranges
        return metadata

    def updated(self: Any, layer: Any, key: Tensor, value: Tensor, *rest: Tensor) -> None:
        update(self, layer, key, value, *rest)
        # once more as (slots, heads, d), which the kernel packs otherwise
        cache, slots = rest
        if not hasattr(self, "plain"):
            self.block = cache.shape[2]
            size = cache.shape[0] * self.block
            self.plain = [x.new_zeros(size, *x.shape[1:]) for x in (key, value)]
        for plain, new in zip(self.plain, (key, value), strict=True):
            plain[slots] = new[: len(slots)]

    def attended(self: Any, layer: Any, query: Tensor, *rest: Any, **options: Any) -> Tensor:
        output = forward(self, layer, query, *rest, **options)
        metadata = rest[3]
        if metadata is not None and metadata.mm_prefix_range:
            for request, ranges in metadata.mm_prefix_range.items():
                _both_ways(self, query, metadata, output, request, ranges)
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "get_memory_info", lambda *device: MEMORY)
        if both_ways:
            patch.setattr(CPUAttentionMetadataBuilder, "build", built)
            patch.setattr(CPUAttentionBackendImpl, "do_kv_cache_update", updated)
            patch.setattr(CPUAttentionBackendImpl, "forward", attended)
        yield


def _both_ways(
    of_layer: Any,
    query: Tensor,
    metadata: Any,
    output: Tensor,
    request: int,
    ranges: list[tuple[int, int]],
) -> None:
    """Write the attention of a request's visual tokens, of which each sees all of its image."""
    start, end = metadata.query_start_loc[request : request + 2].tolist()
    length = int(metadata.seq_lens[request])
    before = length - (end - start)
    positions = torch.arange(length)
    block = of_layer.block
    slots = metadata.block_table[request][positions // block] * block + positions % block
    heads = query.shape[1] // of_layer.plain[0].shape[1]
    keys, values = (x[slots].repeat_interleave(heads, dim=1) for x in of_layer.plain)

    for first, last in ranges:
        rows = positions[max(first, before) : min(last + 1, length)]  # (R,)
        of_query = start + rows - before
        # (R, H, d) and (length, H, d) → (H, R, length)
        logits = torch.einsum("rhd,lhd->hrl", query[of_query], keys) * of_layer.scale
        sees = positions <= rows[:, None]  # (R, length)
        sees = sees | ((first <= positions) & (positions <= last))
        if of_layer.sliding_window > 0:
            sees = sees & (positions > rows[:, None] - of_layer.sliding_window)
        attention = logits.masked_fill(~sees, -torch.inf).softmax(-1)
        output[of_query] = torch.einsum("hrl,lhd->rhd", attention, values)
