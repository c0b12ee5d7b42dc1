"""Cache encoded images, so that another question about one costs a selection, not an encoding."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adafv.families.crop_layout import Layout
from adafv.integrations.vllm.bounded_cache import BoundedCache

__all__ = ["Encoded", "Encodings", "own"]


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


class Encodings(BoundedCache[Encoded]):
    """The most recently used images, by their hash, in bounded memory.

    Attributes:
        encoded: how often.
    """

    def __init__(self, bytes: float) -> None:
        super().__init__(bytes)
        self.encoded = 0
        self._reserved: Tensor | None = None

    def reserve(self, device: torch.device | str) -> None:
        """Hold the memory until the first image: vLLM measures what is left before it."""
        self._reserved = torch.empty(self.bytes, dtype=torch.uint8, device=device)

    def add(self, image: str, new: Encoded) -> None:
        """Keep an image, and evict those that were not used for longest where there is no room."""
        self.encoded += 1
        # vLLM has measured; what was held is for the images now
        self._reserved = None
        # of its own: a part of a batch would hold all of the batch's memory
        new = replace(new, features=own(new.features), saliency=own(new.saliency))
        self.put(image, new, new.size)


def own(tensor: Tensor) -> Tensor:
    """Return a tensor that shares its memory with no other."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
