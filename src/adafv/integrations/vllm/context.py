"""Load a model's processor for vLLM with a backend that is for images alone.

`adafv serve` asks for `backend="pil"`, as everywhere in this library; transformers asks the part
that prepares videos for it, too, which has no such backend, so that no server of Qwen-VL would
start.
"""

from functools import wraps
from typing import Any

from transformers import AutoProcessor, AutoVideoProcessor, ProcessorMixin
from vllm.multimodal.processing import InputProcessingContext
from vllm.transformers_utils import processor as loading

from adafv.models.processors import processor_class, with_videos

__all__ = ["Context", "PillowContext"]


class Context(InputProcessingContext):
    """vLLM's access to a model's processor."""

    def get_hf_processor(self, typ: Any = None, /, **kwargs: Any) -> Any:
        """Return the processor; its part for videos is loaded with the backend that it has.

        Args:
            typ: its class. None: as the model's configuration says.
            kwargs: options of the request.
        """
        given = "backend" in self.get_merged_mm_kwargs(kwargs)
        if given:
            typ = self._with_videos(typ)
            _leave_backend_out_for_videos()
        processor = super().get_hf_processor(*([] if typ is None else [typ]), **kwargs)
        if given:
            _leave_backend_out_of_counts(processor)
        return processor

    def _with_videos(self, typ: Any) -> Any:
        """Return a class of processors, and one that can be loaded where it reads videos."""
        if typ is None:
            found = processor_class(self.model_config.hf_config)
            return None if found is AutoProcessor else found
        is_one = isinstance(typ, type) and issubclass(typ, ProcessorMixin)
        return with_videos(typ) if is_one and "video_processor" in typ.get_attributes() else typ


class PillowContext(Context):
    """Access to a processor that has one backend, Pillow: vLLM's own, or that of the hub's code."""

    def get_merged_mm_kwargs(self, kwargs: Any, **options: Any) -> dict[str, Any]:
        """Return the options of a server and of a request, without a backend."""
        merged = super().get_merged_mm_kwargs(kwargs, **options)
        merged.pop("backend", None)
        return merged


def _leave_backend_out_for_videos() -> None:
    """Make vLLM load the part for videos without a backend where it does so apart (InternVL)."""
    merge = loading._merge_mm_kwargs
    if getattr(merge, "is_ours", False):
        return

    @wraps(merge)
    def merged(model_config: Any, cls: Any, /, **kwargs: Any) -> Any:
        options = merge(model_config, cls, **kwargs)
        if cls is AutoVideoProcessor:
            options.pop("backend", None)
        return options

    merged.is_ours = True  # type: ignore[attr-defined]
    loading._merge_mm_kwargs = merged


def _leave_backend_out_of_counts(processor: Any) -> None:
    """Make a processor count tokens without a backend: some keep what they are told for good."""
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    if count is None or getattr(count, "is_ours", False):
        return

    @wraps(count)
    def counted(*, backend: Any = None, **options: Any) -> Any:
        return count(**options)

    counted.is_ours = True  # type: ignore[attr-defined]
    processor._get_num_multimodal_tokens = counted
