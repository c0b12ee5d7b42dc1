"""Processors without torchvision: transformers prepares images with Pillow too, videos only with
torchvision.
"""

from functools import cache
from typing import Any

from transformers import AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from adafv.utils.checks import checked

__all__ = ["images_only", "processor_class"]


@checked
def processor_class(config: PreTrainedConfig) -> Any:
    """What loads the processor of a model: `AutoProcessor`, or where torchvision is missing its
    class for images.
    """
    cls: Any = PROCESSOR_MAPPING.get(type(config), None)
    with_video = (
        isinstance(cls, type)
        and issubclass(cls, ProcessorMixin)
        and "video_processor" in cls.get_attributes()
    )
    return images_only(cls) if with_video and not is_torchvision_available() else AutoProcessor


@checked
@cache
def images_only(cls: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A processor class that goes without its video processor."""
    names = cls.get_attributes()
    place = names.index("video_processor")

    class Images(ProcessorMixin):
        def __init__(self, *args: Any, **options: Any) -> None:
            parts = dict(zip(names, args, strict=False)) | options
            parts.pop("video_processor", None)
            super().__init__(**parts)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return names[:place] + names[place + 1 :]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **options: Any) -> list[Any]:
            parts = super()._get_arguments_from_pretrained(*args, **options)
            return [*parts[:place], None, *parts[place:]]

    return type(cls.__name__, (cls, Images), {"get_attributes": Images.get_attributes})
