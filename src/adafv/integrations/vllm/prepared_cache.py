"""Keep prepared images, so that another question about one does not resize it again.

vLLM's own cache knows an image by the hash that says which of its tokens are kept, and the words of
a question are part of that. Here it is known by its own hash, which says how it is prepared, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import BatchFeature
from vllm.multimodal.cache.base import MultiModalCache
from vllm.multimodal.inputs import (
    BaseMultiModalField,
    MultiModalFieldConfig,
    MultiModalKwargsItem,
)
from vllm.utils.jsontree import json_map_leaves

from adafv.integrations.vllm.bounded_cache import ENTRY, BoundedCache
from adafv.integrations.vllm.counters import COUNTERS
from adafv.integrations.vllm.encoder_cache import own

__all__ = ["PreparedBatch", "PreparedImageCache"]


class PreparedImageCache(BoundedCache[MultiModalKwargsItem]):
    """The inputs of images as the model's processor makes them, by the images' own hashes."""

    def prepare(
        self,
        images: Sequence[str],
        modality: str,
        process: Callable[[list[int]], Sequence[MultiModalKwargsItem]],
    ) -> "PreparedBatch":
        """Return the inputs of images; those that are not kept are processed, each once.

        Args:
            images: their hashes.
            modality: vLLM's name of what they are.
            process: returns the inputs of the images at some indices, in their order.
        """
        found: dict[str, MultiModalKwargsItem] = {}
        missing: dict[str, int] = {}
        for i, image in enumerate(images):
            known = self.find(image)
            if known is None:
                missing.setdefault(image, i)
            else:
                found[image] = known

        # process the others, and remember them
        if missing:
            new = process(list(missing.values()))
            for image, item in zip(missing, new, strict=True):
                found[image] = _own(item)
                size = MultiModalCache.get_item_size(found[image])
                self.put(image, found[image], size + ENTRY)
        COUNTERS.count_images("prepared", len(missing), len(images) - len(missing))
        return PreparedBatch([found[image] for image in images], modality)


class PreparedBatch(BatchFeature):
    """The output of a processor for images, split into those of each already.

    Args:
        items: of the images.
        modality: vLLM's name of what they are.

    Attributes:
        fields: by which vLLM splits it.
    """

    def __init__(self, items: Sequence[MultiModalKwargsItem], modality: str) -> None:
        super().__init__({name: [item[name] for item in items] for name in items[0]})
        self.fields = dict.fromkeys(items[0], MultiModalFieldConfig(Split(), modality))


@dataclass(frozen=True, kw_only=True)
class Split(BaseMultiModalField):
    """A field of which the data are those of each image; these know how they are batched."""

    def build_elems(self, modality: str, key: str, data: Any) -> Any:
        """Return the data."""
        return data

    def _reduce_data(self, batch: Any, *, pin_memory: bool) -> Any:
        raise NotImplementedError


def _own(item: MultiModalKwargsItem) -> MultiModalKwargsItem:
    """Return the inputs of an image, without the memory of those that it was processed with."""
    fields = {}
    for name, field in item.items():
        fields[name] = replace(field, data=json_map_leaves(_own_leaf, field.data))
    return MultiModalKwargsItem(fields)


def _own_leaf(leaf: Any) -> Any:
    return own(leaf) if isinstance(leaf, Tensor) else leaf
