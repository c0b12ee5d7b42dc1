"""Refuse options of ours where no picture is pruned: vLLM would answer from the whole of it."""

from functools import wraps
from typing import Any

from vllm.multimodal.registry import MultiModalRegistry

from adafv.integrations.vllm.architectures import ARCHITECTURES
from adafv.integrations.vllm.left_out_architectures import in_brackets

__all__ = ["refuse_options"]


def refuse_options() -> None:
    """Make processors of models that are not pruned refuse what asks for it.

    vLLM calls no hook for them, so its registry is told to look at what it makes.
    """
    create = MultiModalRegistry.create_processor
    # vLLM registers plugins more than once
    if getattr(create, "refuses", False):
        return

    @wraps(create)
    def create_processor(registry: Any, model_config: Any, **options: Any) -> Any:
        from adafv.integrations.vllm.options import settings
        from adafv.integrations.vllm.processor import Pruned

        processor: Any = create(registry, model_config, **options)
        if not isinstance(processor, Pruned):
            # a server does not start with a budget that it cannot keep to
            if settings(model_config).prunes:
                raise ValueError(_refusal(model_config))
            _refuse_requests(processor, _refusal(model_config))
        return processor

    create_processor.refuses = True  # type: ignore[attr-defined]
    MultiModalRegistry.create_processor = create_processor


def _refuse_requests(processor: Any, refusal: str) -> None:
    """Make a processor refuse requests with options of ours."""
    apply = processor.apply

    def checked(inputs: Any, timing_ctx: Any) -> Any:
        if any(name.startswith("adafv") for name in inputs.hf_processor_mm_kwargs):
            raise ValueError(refusal)
        return apply(inputs, timing_ctx)

    processor.apply = checked


def _refusal(model_config: Any) -> str:
    names = model_config.hf_config.architectures or [type(model_config).__name__]
    if model_config.model_impl == "transformers" and names[0] in ARCHITECTURES:
        return (
            f"{names[0]} is not pruned with --model-impl transformers, so adafv's options have no "
            "effect: leave either out"
        )
    return (
        f"{names[0]} is not pruned on vLLM, so adafv's options have no effect: leave them out "
        "(of a server: or set VLLM_PLUGINS to others), or prune it with the "
        f"library{in_brackets(names[0])}"
    )
