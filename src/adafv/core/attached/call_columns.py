"""Columns and positions of a call: the caller's, the shorter prompt's, the cache's.

Letters: B rows, L columns of the caller's prompt, L' of the shorter one, n columns of a cache, q
columns that are new, q' of them kept.
"""

import inspect
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.attached.cached_prompt import (
    CachedPrompt,
    ones,
)
from adafv.core.inputs import ARGUMENTS, PIXELS
from adafv.core.visual_tokens import Encoding
from adafv.families.base import base_of
from adafv.utils.checks import checked

__all__ = [
    "COLUMNS",
    "POSITIONAL",
    "encoder_inputs",
    "following_position",
    "masks_of",
    "runs_along",
    "shift_of",
]

COLUMNS = "adafv_columns"
"""An input that is shortened with the caller's: 1 + its column, 0 in new padding."""
POSITIONAL = ("input_ids", "attention_mask", "position_ids", "cache_position")
"""Inputs that say what is read, and at which positions."""
ENCODERS = ("get_image_features", "get_video_features")


@checked
def following_position(
    encoding: Encoding, short: dict[str, Any], lost: bool, generates: bool
) -> Tensor | None:
    """Return the position (B, 1) of what follows a shorter prompt.

    None: the model counts it itself.
    """
    ids: Tensor = short["input_ids"]  # (B, L')
    if encoding.positions is not None:
        real = encoding.prompt.mask.to(ids.device)  # (B, L)
        last = encoding.positions[-3:].masked_fill(~real, -1).amax((0, 2))  # (3, B, L) -> (B,)
        return last[:, None] + 1
    if not lost:
        return None
    mask = short.get("attention_mask")
    return _next_position(ids, mask, short.get("position_ids"), by_mask=generates)


@checked
def shift_of(inputs: dict[str, Any], following: Tensor, generates: bool) -> Tensor:
    """Return by how much (B, 1) the caller's position of what follows exceeds the model's."""
    ids: Tensor = inputs["input_ids"]  # (B, L)
    mask = inputs.get("attention_mask")
    return _next_position(ids, mask, inputs.get("position_ids"), by_mask=generates) - following


def _next_position(
    ids: Tensor, mask: Tensor | None, positions: Tensor | None, by_mask: bool
) -> Tensor:
    """Return the position (B, 1) of what follows a prompt (B, L).

    Args:
        positions: (B or 1, L) as they are given. None: counted by the mask or by columns.
    """
    mask = ones(ids) if mask is None else mask
    if positions is not None:
        return positions.expand(ids.shape).masked_fill(mask == 0, -1).amax(1, keepdim=True) + 1
    if by_mask:
        return mask.sum(1, keepdim=True)
    return ones(ids[:, :1]) * ids.shape[1]


@checked
def masks_of(
    known: CachedPrompt, mask: Tensor | None, width: int
) -> tuple[Tensor | None, Tensor | None]:
    """Return the mask (B, n) of what the cache holds, and (B, q) of what is new.

    None: all is real.
    """
    read = known.ids.shape[1]
    short = known.columns.shape[1]
    if mask is None:
        return (known.columns >= 0).long() if known.padded else None, None
    # in the caller's columns
    if mask.dim() == 2 and mask.shape[1] == read + width:
        return known.cut(mask), mask[:, read:]
    # in those of the cache
    if mask.dim() == 2 and mask.shape[1] == short + width:
        return mask[:, :short], mask[:, short:]
    if mask.dim() > 2 and not known.lost:
        return None, None
    raise ValueError(
        f"attention_mask is {tuple(mask.shape)}, the cache holds {read} tokens of each prompt and "
        f"{width} are new: pass a mask of {len(known.ids)} x {read + width}"
    )


@checked
def runs_along(known: CachedPrompt, name: str, x: object, width: int, old: bool = True) -> bool:
    """Return whether something has a number for each new token.

    Args:
        width: q.
        old: or for each token of the chat so far.
    """
    if not isinstance(x, Tensor) or x.dim() < 2 or x.is_floating_point():
        return False
    # what describes images, or another prompt, could have such a shape by chance
    if name in ARGUMENTS or name.startswith(("pixel", "image", "video")):
        return False
    widths = [width]
    if old:
        widths.append(known.ids.shape[1] + width)
    return x.shape[-2] == len(known.ids) and x.shape[-1] in widths


@checked
def encoder_inputs(model: PreTrainedModel) -> set[str]:
    """Return the names of what the encoders of a model take."""
    names = set(PIXELS.values())
    for name in ENCODERS:
        encoder = getattr(base_of(model), name, None)
        if encoder is not None:
            names.update(inspect.signature(encoder).parameters)
    return names
