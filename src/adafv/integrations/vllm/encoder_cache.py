"""Images that the vision tower has seen: another question about one costs a selection, not an
encoding.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.families.base import Layout

__all__ = ["Encoded", "Encodings"]


@dataclass(frozen=True)
class Encoded:
    """What became of an image.

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
        """Bytes."""
        return self.features.nbytes + self.saliency.nbytes


class Encodings:
    """The most recently used images, by their hash, in bounded memory.

    Args:
        bytes: as much as they may have.

    Attributes:
        used: bytes that they have.
        encoded, reused, evicted: how often.
    """

    def __init__(self, bytes: float) -> None:
        self.bytes, self.used = int(bytes), 0
        self.encoded = self.reused = self.evicted = 0
        self._kept: OrderedDict[str, Encoded] = OrderedDict()
        self._reserved: Tensor | None = None

    def reserve(self, device: torch.device | str) -> None:
        """Hold the memory until the first image, so that vLLM, which measures what is left,
        leaves room for them.
        """
        self._reserved = torch.empty(self.bytes, dtype=torch.uint8, device=device)

    def find(self, image: str) -> Encoded | None:
        """An image that is kept."""
        if (found := self._kept.get(image)) is not None:
            self._kept.move_to_end(image)
            self.reused += 1
        return found

    def add(self, image: str, new: Encoded) -> None:
        """Keep an image, and let the oldest go where there is no room."""
        self.encoded += 1
        self._reserved = None
        if new.size > self.bytes:
            return
        self._kept[image] = new
        self.used += new.size
        while self.used > self.bytes:
            _, old = self._kept.popitem(last=False)
            self.used -= old.size
            self.evicted += 1
