"""The attention of a vision tower on vLLM, read on the way past."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention

from adafv.core.capture import sequences
from adafv.ops.saliency import cls_attention, received_attention

__all__ = ["last_attention", "watch"]


def last_attention(tower: nn.Module) -> MMEncoderAttention:
    """The attention of the layer the features come from: vLLM builds none above it.

    Raises:
        ValueError: a tower without attention of this kind.
    """
    layers = [module for module in tower.modules() if isinstance(module, MMEncoderAttention)]
    if not layers:
        raise ValueError(
            f"the attention of {type(tower).__name__} cannot be observed: pass adafv_keep=1"
        )
    return layers[-1]


@contextmanager
def watch(layer: MMEncoderAttention, cls: int | None) -> Iterator[list[Tensor]]:
    """While open, what each patch is worth to the tower, as it runs: one (B, P) fp32 tensor for
    each call or image.

    Args:
        layer: where to look.
        cls: which of its tokens is CLS: 0, or None, for the attention received.
    """
    found: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, key = (
            x if x.dim() == 4 else x.unflatten(-1, (-1, layer.head_size))
            for x in (given["query"], given["key"])
        )
        key = key.repeat_interleave(layer.num_queries_per_kv, dim=2)
        for q, k in sequences(query.transpose(1, 2), key.transpose(1, 2), kwargs.get("cu_seqlens")):
            seen = (
                received_attention(q, k, layer.scale)
                if cls is None
                else cls_attention(q, k, layer.scale)
            )
            found.append(_over_all_heads(seen))

    handle = layer.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def _over_all_heads(mean: Tensor) -> Tensor:
    """The mean over the heads of all ranks, each of which has as many."""
    ranks = get_tensor_model_parallel_world_size()
    return mean if ranks == 1 else tensor_model_parallel_all_reduce(mean.contiguous()) / ranks
