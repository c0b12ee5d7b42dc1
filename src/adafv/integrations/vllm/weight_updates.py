"""Forget encodings when vLLM forgets its own: what older weights have encoded is of no use."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from vllm.v1.worker.gpu_worker import Worker

__all__ = ["forget_with_vllm"]

RESETS = ("reset_encoder_cache", "finish_weight_update")
"""Methods of vLLM's worker after which weights are others; not all of them load weights anew."""


@cache
def forget_with_vllm() -> None:
    """Empty the cache of encodings, too, whenever vLLM's worker is told that weights changed."""
    for name in RESETS:
        setattr(Worker, name, _and_forget(getattr(Worker, name)))


def _and_forget(reset: Callable[..., None]) -> Callable[..., None]:
    @wraps(reset)
    def reset_both(worker: Any, *args: Any, **options: Any) -> None:
        reset(worker, *args, **options)
        encodings = getattr(worker.get_model(), "encodings", None)
        if encodings is not None:
            encodings.clear()

    return reset_both
