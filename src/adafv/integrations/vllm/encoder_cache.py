"""Cache encoded images, so that another question about one costs a selection, not an encoding."""

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adafv.families.crop_layout import Layout

__all__ = ["Encoded", "Encodings"]


@dataclass(frozen=True)
class Encoded:
    """An image as the vision tower has encoded it.

    Attributes:
        features: (n, D) its visual tokens, newlines included.
        saliency: (N,) fp32 of those that are patches.
        layout: what they stand for.
    """

    features: Tensor
    saliency: Tensor
    layout: Layout

    @property
    def size(self) -> int:
        """Return the size in bytes."""
        return self.features.nbytes + self.saliency.nbytes


class Encodings:
    """The most recently used images, by their hash, in bounded memory.

    Args:
        bytes: how much they may use.

    Attributes:
        used: bytes that they use.
        encoded, reused, evicted: how often.
    """

    def __init__(self, bytes: float) -> None:
        self.bytes = int(bytes)
        self.used = 0
        self.encoded = 0
        self.reused = 0
        self.evicted = 0
        # the least recently used first
        self._kept: OrderedDict[str, Encoded] = OrderedDict()
        self._reserved: Tensor | None = None

    def reserve(self, device: torch.device | str) -> None:
        """Hold the memory until the first image: vLLM measures what is left before it."""
        self._reserved = torch.empty(self.bytes, dtype=torch.uint8, device=device)

    def clear(self) -> None:
        """Forget all images."""
        self._kept.clear()
        self.used = 0

    def find(self, image: str) -> Encoded | None:
        """Return an image that is kept, or None."""
        found = self._kept.get(image)
        if found is not None:
            self._kept.move_to_end(image)
            self.reused += 1
        return found

    def add(self, image: str, new: Encoded) -> None:
        """Keep an image, and evict those that were not used for longest where there is no room."""
        self.encoded += 1
        # vLLM has measured; what was held is for the images now
        self._reserved = None
        # one that is larger than the memory would evict all others and go itself
        if new.size > self.bytes:
            return
        # of its own: a part of a batch would hold all of the batch's memory
        new = replace(new, features=_own(new.features), saliency=_own(new.saliency))
        self._kept[image] = new
        self.used += new.size
        while self.used > self.bytes:
            _, old = self._kept.popitem(last=False)
            self.used -= old.size
            self.evicted += 1


def _own(tensor: Tensor) -> Tensor:
    """Return a tensor that shares its memory with no other."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
