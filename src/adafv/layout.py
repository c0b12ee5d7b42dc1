"""Where visual tokens sit in a prompt, and the shorter prompt once most of them are gone.

Everything here is known on the host before the vision tower runs; only which tokens are kept lives on the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["PIXELS", "ImageSpan", "Prompt", "has_images", "placeholders"]

FILL = {"labels": -100}
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}

T = TypeVar("T")


@dataclass(frozen=True)
class ImageSpan:
    """The placeholders of one image: `positions` (n,) in row `row` of the batch, in LLM order."""

    row: int
    positions: Tensor


class Prompt:
    """A batch of prompts with image placeholders, as plain host tensors.

    Args:
        inputs: what the processor returned: `input_ids` (B, L), perhaps `attention_mask` (B, L).
        tokens: ids of the placeholders by modality, "image" and "video".
        family: of the model, for what goes wrong.
    """

    def __init__(self, inputs: Mapping[str, Any], tokens: Mapping[str, int], family: str) -> None:
        self.family = family
        self.ids: Tensor = inputs["input_ids"].cpu()
        mask = inputs.get("attention_mask")
        if mask is not None and mask.shape != self.ids.shape:
            raise ValueError(
                f"attention_mask is {tuple(mask.shape)}, input_ids {tuple(self.ids.shape)}: pruning needs the whole "
                "prompt and the processor's own mask, without a prefilled cache"
            )
        self.mask = torch.ones_like(self.ids, dtype=torch.bool) if mask is None else mask.cpu().bool()
        self.tokens = tokens
        self.placeholder = torch.isin(self.ids, torch.tensor(list(tokens.values()))) & self.mask

    def spans(self, lengths: list[int], modality: str = "image") -> list[ImageSpan]:
        """Hand the placeholders of a modality out to images of `lengths` tokens, in reading order.

        Raises:
            ValueError: the prompt's placeholders don't add up to the images.
        """
        rows, columns = ((self.ids == self.tokens[modality]) & self.mask).nonzero(as_tuple=True)
        if len(rows) != sum(lengths):
            raise ValueError(
                f"the prompt holds {len(rows)} {modality} placeholders, the {modality}s make {sum(lengths)} tokens: "
                f"pass both through the processor of this {self.family!r} model together, without truncation"
            )
        spans = []
        for row, columns_ in zip(rows.split(lengths), columns.split(lengths), strict=True):
            if (row != row[0]).any():
                raise ValueError("an image's placeholders run over two prompts: were they truncated?")
            spans.append(ImageSpan(int(row[0]), columns_))
        return spans

    def groups(self, crops: Sequence[T], lengths: list[int], gap: int) -> list[list[T]]:
        """Crops of `lengths` tokens put together to images: those at most `gap` other tokens apart.

        Raises:
            ValueError: see `spans`.
        """
        groups: list[list[T]] = []
        before = None
        for crop, span in zip(crops, self.spans(lengths), strict=True):
            if before is None or span.row != before.row or span.positions[0] - before.positions[-1] > gap + 1:
                groups.append([])
            groups[-1].append(crop)
            before = span
        return groups

    def text_after(self, span: ImageSpan, skip: frozenset[int] = frozenset()) -> Tensor:
        """Positions of the words an image is asked about: all text after it, or all text where none follows.

        Text between and after later images counts too, so a question at the end of a prompt is every image's.
        Tokens whose id is in `skip` don't count.
        """
        text = self.mask[span.row] & ~self.placeholder[span.row]
        if skip:
            text &= ~torch.isin(self.ids[span.row], torch.tensor(sorted(skip)))
        after = text.clone()
        after[: span.positions[-1]] = False
        return (after if after.any() else text).nonzero()[:, 0]

    def shorten(self, inputs: Mapping[str, Any], kept: list[tuple[int, Tensor]], pad: int) -> dict[str, Tensor]:
        """Every tensor that runs along the sequence, without the placeholders that were not kept.

        Args:
            inputs: the full inputs.
            kept: for each image its row and the positions (k,) that stay, on the device.
            pad: the id to fill `input_ids` with, where rows end up shorter than the longest.

        Returns:
            The shortened tensors by name, always with an `attention_mask`.
        """
        index, real = self._index(kept, inputs["input_ids"].device)
        out = {}
        for name, tensor in inputs.items():
            if isinstance(tensor, Tensor) and tensor.shape[-2:] == self.ids.shape and not tensor.is_floating_point():
                fill = pad if name == "input_ids" else FILL.get(name, 0)
                rows = index if tensor.dim() == 2 else index.expand(*tensor.shape[:-1], -1)
                out[name] = tensor.gather(-1, rows).where(real, fill)
        if "attention_mask" not in out:
            out["attention_mask"] = real.long()
        return out

    def original_positions(
        self, device: torch.device, kept: list[tuple[int, Tensor]], positions: Tensor | None = None
    ) -> Tensor:
        """(B, L') or (…, B, L') position ids that the kept tokens had in the full prompt.

        Args:
            positions: (…, B, L) those of the full prompt. None: 0, 1, 2, …
        """
        index, real = self._index(kept, device)
        if positions is None:
            positions = (self.mask.long().cumsum(-1) - 1).to(device, non_blocking=True)
        return positions.gather(-1, index.expand(*positions.shape[:-1], -1)).where(real, 0)

    def _index(self, kept: list[tuple[int, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
        """(B, L') where each token of the shortened rows comes from, padded on the same side, and which are real."""
        text = self.mask & ~self.placeholder
        rows = []
        for row, is_text in enumerate(text):
            positions = [is_text.nonzero()[:, 0].to(device, non_blocking=True)]
            positions += [stay for owner, stay in kept if owner == row]
            rows.append(torch.cat(positions).sort().values)
        width = max(map(len, rows)) + self.ids.shape[1] - int(self.mask.sum(1).max())
        index = torch.zeros(len(rows), width, dtype=torch.long, device=device)
        real = torch.zeros(len(rows), width, dtype=torch.bool, device=device)
        for target, is_real, source in zip(index, real, rows, strict=True):
            where = slice(len(source)) if self._pads_right else slice(width - len(source), None)
            target[where], is_real[where] = source, True
        return index, real

    @property
    def _pads_right(self) -> bool:
        return not bool(self.mask[:, -1].all())


def has_images(inputs: Mapping[str, Any]) -> bool:
    """Whether there is a picture or a clip among the inputs of a model."""
    return any(inputs.get(name) is not None for name in (*PIXELS.values(), "pixel_values_images"))


def placeholders(config: Any) -> dict[str, int]:
    """The ids that stand for a visual token in the prompts of a model, by modality."""
    found: dict[str, int] = {}
    for modality in PIXELS:
        for name in (f"{modality}_token_id", f"{modality}_token_index"):
            if (token := getattr(config, name, None)) is not None:
                found.setdefault(modality, token)
    if "image" not in found:
        raise ValueError(f"the configuration of {config.model_type!r} names no image_token_id: add it to config.json")
    return found
