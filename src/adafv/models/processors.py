"""Load processors without torchvision, which transformers needs for videos only."""

from functools import cache
from typing import Any

from transformers import AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from adafv.utils.checks import checked

__all__ = ["images_only", "processor_class"]


@checked
def processor_class(config: PreTrainedConfig) -> Any:
    """Return the class that loads a model's processor.

    That is `AutoProcessor`, or where torchvision is missing the model's class for images alone.
    """
    # None for a family without a processor
    cls: Any = PROCESSOR_MAPPING.get(type(config), None)
    with_video = (
        isinstance(cls, type)
        and issubclass(cls, ProcessorMixin)
        and "video_processor" in cls.get_attributes()
    )
    if with_video and not is_torchvision_available():
        return images_only(cls)
    return AutoProcessor


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
