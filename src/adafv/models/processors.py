"""Load processors with and without torchvision, which transformers needs for videos only."""

from functools import cache
from typing import Any, ClassVar

from transformers import (
    AutoProcessor,
    AutoVideoProcessor,
    Glm46VProcessor,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from adafv.utils.checks import checked

__all__ = ["check_reads_videos", "images_only", "processor_class", "with_videos"]

UNMAPPED = {"glm_ocr": Glm46VProcessor}
"""Processors that checkpoints name, by `model_type`, where transformers knows none of the type."""


@checked
def processor_class(config: PreTrainedConfig) -> Any:
    """Return the class that loads a model's processor.

    That is `AutoProcessor`; of a model that reads videos its own class, or where torchvision is
    missing that for images alone.
    """
    # None for a family without a processor
    cls: Any = PROCESSOR_MAPPING.get(type(config), UNMAPPED.get(config.model_type))
    with_video = (
        isinstance(cls, type)
        and issubclass(cls, ProcessorMixin)
        and "video_processor" in cls.get_attributes()
    )
    if not with_video:
        return AutoProcessor
    return with_videos(cls) if is_torchvision_available() else images_only(cls)


@checked
@cache
def with_videos(cls: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Return a processor class whose part for videos is loaded with the one backend it has.

    `backend="pil"` is for images: asked of the part for videos, too, it is refused.
    """
    index = cls.get_attributes().index("video_processor")

    whole: Any = cls  # mypy takes no class for hashable

    def arguments(kind: type[ProcessorMixin], source: str, *args: Any, **options: Any) -> list[Any]:
        for_images: Any = images_only(whole)
        parts: list[Any] = for_images._get_arguments_from_pretrained(source, *args, **options)
        options.pop("backend", None)
        parts[index] = AutoVideoProcessor.from_pretrained(source, **options)
        return parts

    # the same name as the model's class, which transformers writes to a saved processor
    return type(cls.__name__, (cls,), {"_get_arguments_from_pretrained": classmethod(arguments)})


@checked
@cache
def images_only(cls: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Return a processor class that works without its video processor.

    Cached, so that processors of one model are of one class.
    """
    names = cls.get_attributes()
    index = names.index("video_processor")

    class Images(ProcessorMixin):
        """The processor with every attribute but the one for videos."""

        lacks_torchvision: ClassVar[bool] = True

        def __init__(self, *args: Any, **options: Any) -> None:
            # positional arguments come in the order of the attributes
            parts = dict(zip(names, args, strict=False)) | options
            parts.pop("video_processor", None)
            super().__init__(**parts)

        @classmethod
        def get_attributes(cls) -> list[str]:
            """Return the attributes that are loaded."""
            return names[:index] + names[index + 1 :]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **options: Any) -> list[Any]:
            # the model's own constructor expects an argument for videos in its old position
            parts = super()._get_arguments_from_pretrained(*args, **options)
            return [*parts[:index], None, *parts[index:]]

    # the same name as the model's class, which transformers writes to a saved processor
    return type(cls.__name__, (cls, Images), {"get_attributes": Images.get_attributes})


@checked
def check_reads_videos(processor: ProcessorMixin) -> None:
    """Raise a `ValueError` if a processor has no part that prepares videos."""
    if getattr(processor, "video_processor", None) is not None:
        return
    if getattr(processor, "lacks_torchvision", False):
        raise ValueError(
            "this model's processor prepares videos with torchvision, which is not installed: "
            "install it from where your PyTorch came from, e.g. pip install torchvision"
        )
    raise ValueError(
        "this model's processor reads images, no videos: pass a model that reads them, such as a "
        "Qwen2.5-VL, or ask about a frame as an image"
    )
