"""Observe the attention of a vision tower on vLLM while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention

from adafv.core.capture import sequences
from adafv.ops.saliency import cls_attention, received_attention

__all__ = ["last_attention", "over_all_heads", "watch"]


def last_attention(model: nn.Module) -> MMEncoderAttention:
    """Return the attention of the layer that features come from: vLLM builds none above it.

    Raises:
        ValueError: a vision tower without attention of this kind.
    """
    layers = [module for module in model.modules() if isinstance(module, MMEncoderAttention)]
    if not layers:
        raise ValueError(
            f"the attention of {type(model).__name__} cannot be observed: pass adafv_keep=1"
        )
    return layers[-1]


@contextmanager
def watch(layer: MMEncoderAttention, cls: int | None) -> Iterator[list[Tensor]]:
    """Collect what each patch is worth to the tower, as long as the context is open.

    Args:
        layer: where to look.
        cls: which of its tokens is CLS: 0, -1, or None, for the attention received.

    Yields:
        One (B, N) fp32 tensor for each call of the tower, or for each image where images of several
        sizes are packed: the mean over the heads of this rank.
    """
    found: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query = _split_heads(given["query"], layer.head_size)  # (B, N, H, d)
        key = _split_heads(given["key"], layer.head_size)
        # grouped queries: each key serves several heads
        key = key.repeat_interleave(layer.num_queries_per_kv, dim=2)

        # packed images are looked at one by one
        bounds = kwargs.get("cu_seqlens")
        for q, k in sequences(query.transpose(1, 2), key.transpose(1, 2), bounds):
            if cls == -1:
                # put CLS first
                q = q.roll(1, dims=2)
                k = k.roll(1, dims=2)
            # (B, H, N, d) → (B, N)
            if cls is None:
                found.append(received_attention(q, k, layer.scale))
            else:
                found.append(cls_attention(q, k, layer.scale))

    handle = layer.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def _split_heads(x: Tensor, head_size: int) -> Tensor:
    """Return queries or keys (B, N, H · d) as (B, N, H, d), which some towers pass already."""
    return x if x.dim() == 4 else x.unflatten(-1, (-1, head_size))


def over_all_heads(mean: Tensor) -> Tensor:
    """Return the mean over the heads of all ranks, each of which has as many, or all of them.

    Args:
        mean: that over the heads of this rank, of any shape.
    """
    ranks = get_tensor_model_parallel_world_size()
    if ranks == 1:
        return mean
    return tensor_model_parallel_all_reduce(mean.contiguous()) / ranks
