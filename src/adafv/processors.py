"""Processors without torchvision: transformers prepares pictures with Pillow too, videos only with torchvision."""

from functools import cache
from typing import Any

from transformers import AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

__all__ = ["pictures_only", "processor_class"]


def processor_class(config: PreTrainedConfig) -> Any:
    """What loads the processor of a model: `AutoProcessor`, or where torchvision is missing its class for pictures."""
    cls: Any = PROCESSOR_MAPPING.get(type(config), None)
    if is_torchvision_available() or cls is None or "video_processor" not in cls.get_attributes():
        return AutoProcessor
    return pictures_only(cls)


@cache
def pictures_only(cls: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A processor class that goes without its video processor."""
    attributes = [name for name in cls.get_attributes() if name != "video_processor"]
    return type(cls.__name__, (cls,), {"get_attributes": classmethod(lambda _: attributes)})
