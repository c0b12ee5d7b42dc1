"""What a family knows of a model, asked without its weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from adafv.families import family_of
from adafv.families.base import Layout

__all__ = ["MetaModel"]


class MetaModel:
    """A model without weights, which tells where visual tokens come from.

    Args:
        config: of the model, as transformers has it.
    """

    def __init__(self, config: Any) -> None:
        with torch.device("meta"):
            self._model = AutoModelForImageTextToText.from_config(config)
        self._family = family_of(config)
        self.cls = self._family.cls_position(self._model)
        self._layout = lru_cache(maxsize=256)(self._laid_out)

    def layout(self, count: int, item: Mapping[str, Any]) -> Layout:
        """What the `count` visual tokens of an image stand for; `item` is what the processor made
        of it.
        """
        shape = {
            name: tuple(item[name].tolist())
            for name in ("image_sizes", "image_grid_thw")
            if name in item
        }
        return self._layout(count, tuple(shape.items()))

    def _laid_out(self, count: int, shape: tuple[tuple[str, tuple[int, ...]], ...]) -> Layout:
        inputs: Any = {name: torch.tensor([numbers]) for name, numbers in shape}
        family: Any = self._family
        [layout] = family.layouts(self._model, inputs, prompt=None, tokens=[count])
        if len(layout.patches) != count:
            raise ValueError(
                f"vLLM makes {count} visual tokens of an image that transformers makes {len(layout.patches)} of: "
                "please report it"
            )
        return layout
