"""Ask a family what it knows of a model, without the model's weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from adafv.core.inputs import PIXELS
from adafv.families import family_of
from adafv.families.crop_layout import Layout
from adafv.integrations.vllm.architecture import VISION_CHUNK

__all__ = ["NAMES", "SHAPES", "MetaModel", "pixels_in"]

SIZES = "image_sizes"
GRID = "image_grid_thw"
SHAPES = "spatial_shapes"
COORDINATES = "image_position_ids"
VIDEO_GRID = "video_grid_thw"
GIVEN = {
    "image": (SIZES, GRID, SHAPES, "pixel_position_ids"),
    "video": (VIDEO_GRID,),
    VISION_CHUNK: ("grid_thws",),
}
"""Inputs whose numbers say how large an image or a video is; of pixels only the shape does."""
RENAMED = {"pixel_position_ids": COORDINATES, "grid_thws": GRID}
"""Names that vLLM alone gives to some of them, and those of transformers."""
PIXEL_NAMES = {
    "image": (PIXELS["image"], "pixel_values_flat"),
    "video": (PIXELS["video"],),
    VISION_CHUNK: (PIXELS["image"],),
}
"""Names that vLLM has for the pixels of a modality."""
NAMES = {"image": "an image", "video": "a video", VISION_CHUNK: "an image"}

Shape = tuple[int, ...]
Key = tuple[Shape, tuple[tuple[str, Shape, Shape], ...]]


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
        self.registers = self._family.registers(self._model)
        self.feature_layer = self._family.feature_layer(self._model)
        # images of a server have few sizes, and every request asks for the layout of its own
        self._layout = lru_cache(maxsize=256)(self._layout_of)
        self._video_layout = lru_cache(maxsize=256)(self._video_layout_of)

    def layout(self, count: int, item: Mapping[str, Any], modality: str = "image") -> Layout:
        """Return what the visual tokens of an image or a video stand for.

        Args:
            count: of its visual tokens, newlines included.
            item: what the processor made of it.
            modality: vLLM's name of it.

        Raises:
            ValueError: transformers makes another number of tokens of it.
        """
        pixels = pixels_in(item, modality)
        shape = () if pixels is None else tuple(pixels.shape)
        numbers = []
        for name in GIVEN[modality]:
            if name not in item:
                continue
            given = item[name]
            renamed = RENAMED.get(name, name)
            # there may be thousands of (patches, 2), whose largest say how large the image is
            values = given.amax(0) if renamed == COORDINATES else given.flatten()
            numbers.append((renamed, tuple(given.shape), tuple(values.tolist())))
        lay_out = self._video_layout if modality == "video" else self._layout
        layout = lay_out(count, (shape, tuple(numbers)))
        if len(layout.patches) != count:
            raise ValueError(
                f"vLLM makes {count} visual tokens of {NAMES[modality]} that transformers makes "
                f"{len(layout.patches)} of: please report it"
            )
        return layout

    def _video_layout_of(self, count: int, key: Key) -> Layout:
        """Return the layout of a video by its shape."""
        shape, numbers = key
        # a batch of one video: (1, 3)
        inputs: dict[str, Any] = {
            name: torch.tensor(values).view(1, *size) for name, size, values in numbers
        }
        # (1, frames, 3, height, width), or patches of all frames
        inputs[PIXELS["video"]] = torch.empty((1, *shape), device="meta")
        family = self._family.of_videos
        [layout] = family.video_layouts(self._model, inputs, prompt=None, tokens=[count])
        return layout

    def _layout_of(self, count: int, key: Key) -> Layout:
        """Return the layout of an image by its shape, which is hashable."""
        shape, numbers = key
        inputs: dict[str, Any] = {}
        for name, size, values in numbers:
            if name == COORDINATES:
                # as if all patches had the largest: (1, patches, 2)
                inputs[name] = torch.tensor(values).expand(1, *size)
                continue
            given = torch.tensor(values).view(size)
            # a batch of one image: (1, 2) or (1, 3)
            inputs[name] = given if given.dim() > 1 else given[None]
        # of crops of any shape vLLM's tower reads the patches, and none of the padding
        if shape and SHAPES not in inputs:
            inputs[PIXELS["image"]] = self._pixels(shape)
            # vLLM cuts padding off before it hands pixels on
            inputs.setdefault(SIZES, torch.tensor([shape[-2:]]))

        # transformers' encoder returns a piece for each crop (crops, 3, height, width)
        crops = shape[0] if len(shape) == 4 and GRID not in inputs else 1
        pieces = [count // crops] * crops
        layouts = self._family.layouts(self._model, inputs, prompt=None, tokens=pieces)
        if len(layouts) != 1:
            raise ValueError(
                "an image of several crops with text between them (pan and scan) is not pruned on "
                "vLLM: pass adafv_keep=1 with such a request"
            )
        [layout] = layouts
        return layout

    def _pixels(self, shape: Shape) -> Tensor:
        """Return pixels of a shape, (crops, 3, height, width) where the image has crops."""
        pixels = torch.empty(shape, device="meta")
        return pixels[None] if pixels.dim() == 3 else pixels


def pixels_in(item: Mapping[str, Any], modality: str) -> Tensor | None:
    """Return the pixels among the inputs of images or videos, under whichever name."""
    for name in PIXEL_NAMES[modality]:
        if name in item:
            pixels: Tensor = item[name]
            return pixels
    return None
