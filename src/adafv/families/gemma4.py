"""Gemma 4: images of any shape, each padded to the longest, the coordinates of patches given."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from adafv.core.prompt import Prompt
from adafv.families.base import Family, Inputs, Lengths
from adafv.families.crop_layout import Crop, Layout, join, raster

__all__ = ["Gemma4"]


@dataclass(frozen=True, kw_only=True)
class Gemma4(Family):
    """A token is the mean of a square of patches."""

    required_inputs: tuple[str, ...] = ("image_position_ids",)

    def crops(self, model: PreTrainedModel, inputs: Inputs, tokens: Lengths) -> list[Crop]:
        """Return the images of a batch, each a crop of its own."""
        merge = model.config.vision_config.pooling_kernel_size
        coordinates = inputs["image_position_ids"].cpu()  # (I, P, 2): column and row, -1 in padding
        # the last patch says how large an image is
        sizes = ((coordinates.amax(1) + 1) // merge).tolist()  # (I, 2)
        padded = coordinates.shape[1]
        return [raster(height, width, merge, padded) for width, height in sizes]

    def video_layouts(
        self, model: PreTrainedModel, inputs: Inputs, prompt: Prompt | None, tokens: Lengths
    ) -> list[Layout]:
        """Return for each video what its placeholders stand for: its frames are its crops."""
        frames = self.crops(model, {"image_position_ids": inputs["video_position_ids"]}, tokens)
        found: list[Layout] = []
        start = 0
        for count in inputs["num_frames_per_video"].tolist():
            found.append(join(frames[start : start + count], frames=count))
            start += count
        return found
