"""Ask a family what it knows of a model, without the model's weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from adafv.families import family_of
from adafv.families.crop_layout import Layout

__all__ = ["MetaModel"]


class MetaModel:
    """A model without weights, which tells where visual tokens come from.

    Args:
        config: of the model, as transformers has it.
    """

    def __init__(self, config: Any) -> None:
        # tensors on "meta" have shapes and no memory
        with torch.device("meta"):
            self._model = AutoModelForImageTextToText.from_config(config)
        self._family = family_of(config)
        self.cls = self._family.cls_position(self._model)
        # images of a server have few sizes, and every request asks for the layout of its own
        self._layout = lru_cache(maxsize=256)(self._layout_of)

    def layout(self, count: int, item: Mapping[str, Any]) -> Layout:
        """Return what the visual tokens of an image stand for.

        Args:
            count: of its visual tokens, newlines included.
            item: what the processor made of the image.

        Raises:
            ValueError: transformers makes another number of tokens of it.
        """
        shape = []
        for name in ("image_sizes", "image_grid_thw"):
            if name in item:
                shape.append((name, tuple(item[name].tolist())))
        return self._layout(count, tuple(shape))

    def _layout_of(self, count: int, shape: tuple[tuple[str, tuple[int, ...]], ...]) -> Layout:
        """Return the layout of an image by its shape, which is hashable."""
        # a batch of one image: (1, 2) or (1, 3)
        inputs: Any = {name: torch.tensor([numbers]) for name, numbers in shape}
        family: Any = self._family
        [layout] = family.layouts(self._model, inputs, prompt=None, tokens=[count])
        if len(layout.patches) != count:
            raise ValueError(
                f"vLLM makes {count} visual tokens of an image that transformers makes "
                f"{len(layout.patches)} of: please report it"
            )
        return layout
