"""Images that a processor prepares once, whatever is asked about them.

Letters: I images, B prompts, L columns.
"""

from collections.abc import Sequence
from copy import copy
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from adafv.core.inputs import PIXEL_NAMES
from adafv.models.images import check_image, to_rgb
from adafv.models.prompting import prompt_for, tokenizer_options
from adafv.utils.checks import checked

__all__ = ["PreparedImages"]

NO_LABEL = -100
"""What stands for a token that is not learned, in transformers."""


class _Once:
    """An image processor that prepares the image of its first call, and returns it from then on."""

    def __init__(self, prepare: Any) -> None:
        self._prepare = prepare
        self._prepared: Any = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self._prepared is None:
            self._prepared = self._prepare(*args, **options)
        # some processors take entries out of it
        return copy(self._prepared)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prepare, name)


@checked
class PreparedImages:
    """Images that may be shown in any number of prompts, and are prepared for the first alone.

    Args:
        processor: of the model.
        images: I of them.

    Raises:
        ValueError: see `adafv.models.images.check_image`.
    """

    def __init__(self, processor: ProcessorMixin, images: Sequence[Image.Image]) -> None:
        for image in images:
            check_image(image)
        self.images = [to_rgb(image) for image in images]
        self.processors: list[Any] = []
        tools: Any = processor
        for _ in images:
            # the caller's processor stays as it is
            own: Any = copy(tools)
            own.image_processor = _Once(tools.image_processor)
            self.processors.append(own)

    def ask(
        self,
        images: Sequence[int],
        questions: Sequence[str],
        device: torch.device | str,
        dtype: torch.dtype,
        *,
        pixels: bool = True,
    ) -> dict[str, Any]:
        """Return what `adafv.models.prompting.build_batch` returns, to the bit.

        Args:
            images: index of the image that each prompt shows.
            questions: as many.
            pixels: False: without them, for images that are encoded already.

        Raises:
            ValueError: see `adafv.models.prompting.check_question`.
        """
        rows: list[dict[str, Any]] = []
        for index, question in zip(images, questions, strict=True):
            processor = self.processors[index]
            prompt = prompt_for(processor, question)
            row = processor(
                images=[[self.images[index]]],
                text=[prompt],
                **tokenizer_options(processor, prompt),
            )
            rows.append(dict(row))

        padding = {"input_ids": self.processors[0].tokenizer.pad_token_id, "labels": NO_LABEL}
        length = max(row["input_ids"].shape[1] for row in rows)
        left_out = () if pixels else PIXEL_NAMES["image"]
        batch: dict[str, Any] = {}
        # an image without tiles has no input for them
        for name in dict.fromkeys(chain.from_iterable(rows)):
            if name in left_out:
                continue
            values = [row[name] for row in rows if name in row]
            if _run_along(values, rows):
                batch[name] = _on_the_left(values, length, padding.get(name, 0))
            else:
                batch[name] = _one_after_another(values)
        return dict(BatchFeature(batch).to(device=device, dtype=dtype))


def _run_along(values: list[Tensor], rows: list[dict[str, Any]]) -> bool:
    """Tell if an input has a number for each token of the prompts."""
    return [value.shape for value in values] == [row["input_ids"].shape for row in rows]


def _on_the_left(rows: list[Tensor], length: int, value: int) -> Tensor:
    """Return (B, L) of rows (1, L'), padded before."""
    return torch.cat([F.pad(row, (length - row.shape[1], 0), value=value) for row in rows])


def _one_after_another(values: list[Tensor]) -> Tensor:
    """Return tensors (n, …) joined along their first dimension, padded to the largest behind."""
    largest = torch.tensor([value.shape for value in values]).amax(0)
    padded: list[Tensor] = []
    for value in values:
        missing: list[int] = []
        # the last dimension comes first
        for size, most in zip(value.shape[:0:-1], largest.flip(0).tolist(), strict=False):
            missing += [0, most - size]
        padded.append(F.pad(value, missing))
    return torch.cat(padded)
