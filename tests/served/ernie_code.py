"""In place of the code that ERNIE 4.5 VL has on the hub: a tiny checkpoint carries a copy.

It has what vLLM reads of it: a flat configuration, and a processor that returns the raw patches of
images and clips in one tensor, behind each other, with their grids.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import resize
from transformers.image_utils import ChannelDimension, PILImageResampling
from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import smart_resize


class Config(PreTrainedConfig):
    model_type = "ernie4_5_moe_vl"
    ignore_keys_at_rope_validation = {"mrope_section"}  # noqa: RUF012

    def __init__(self, vision_config: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.vision_config = PreTrainedConfig(**(vision_config or {}))


class Images(BaseImageProcessor):
    def __init__(self, min_pixels: int = 64, max_pixels: int = 2304, **options: Any) -> None:
        super().__init__(**options)
        self.size = {"min_pixels": min_pixels, "max_pixels": max_pixels}

    def patches(self, frames: np.ndarray) -> tuple[Tensor, list[int]]:
        """Patches (N, 3 · p · p) of all frames of an image or a clip, uint8, and its grid."""
        p, m = self.patch_size, self.merge_size
        height, width = smart_resize(*frames.shape[1:3], p * m, *self.size.values())
        resized = []
        for frame in frames:
            resized.append(
                resize(
                    frame,
                    (height, width),
                    PILImageResampling.BICUBIC,
                    data_format=ChannelDimension.FIRST,
                    input_data_format=ChannelDimension.LAST,
                )
            )
        pixels = torch.from_numpy(np.stack(resized))  # (frames, 3, height, width)
        rows, columns = height // p, width // p
        # those that merge into a token stand one behind the other
        split = pixels.reshape(-1, 3, rows // m, m, p, columns // m, m, p)
        patches = split.permute(0, 2, 5, 3, 6, 1, 4, 7)
        return patches.reshape(-1, 3 * p * p), [len(frames), rows, columns]


class Processor(ProcessorMixin):
    spatial_conv_size = temporal_conv_size = 2

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(
        self, text: list[str], images: Any = None, videos: Any = None, **options: Any
    ) -> BatchFeature:
        seen = [np.asarray(image.convert("RGB"))[None] for image in images or []]
        seen += [np.asarray(video) for video in videos or []]
        patches, grids = zip(*map(self.image_processor.patches, seen), strict=True)
        return BatchFeature(
            {
                "input_ids": torch.tensor([self.tokenizer.encode(text[0])]),
                "images": torch.cat(patches),
                "grid_thw": torch.tensor(grids),
                "image_type_ids": torch.tensor([[int(grid[0] > 1) for grid in grids]]),
            }
        )
