"""`logits_to_keep` in terms of a shorter prompt.

Letters: B rows, L columns of the caller's prompt, L' of the shorter one, P positions.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adafv.core.visual_tokens import Encoding
from adafv.utils.checks import checked

__all__ = ["logit_positions", "logits_kept"]

DROPPED = "logits_to_keep asks for positions of dropped visual tokens: ask for positions of text"


@checked
def logits_kept(
    inputs: Mapping[str, Any], encoding: Encoding, columns: Tensor, start: int, layerwise: bool
) -> dict[str, Any]:
    """Return `logits_to_keep` in terms of a shorter prompt, if the caller passed it."""
    wanted = inputs.get("logits_to_keep")
    if wanted is None:
        return {}
    prompt = encoding.prompt
    kept = logit_positions(
        wanted,
        columns,
        last=int(prompt.placeholder.any(0).nonzero().max()),
        start=start,
        width=prompt.ids.shape[1] - start,
        ends_in_text=bool(prompt.mask[:, -1].all()),
        layerwise=layerwise,
    )
    return {"logits_to_keep": kept}


@checked
def logit_positions(
    wanted: int | Tensor,
    columns: Tensor,
    last: int,
    start: int,
    width: int,
    ends_in_text: bool,
    layerwise: bool,
) -> int | Tensor:
    """Return `logits_to_keep` for a shorter prompt.

    Args:
        wanted: the caller's: how many of the last positions, positions (P,) or (B, P), or a mask
            (B, L).
        columns: (B, L') which of the caller's columns the shorter prompt has; negative for padding.
        last: the caller's last column that may have been dropped, -1 if none was.
        start: the caller's column that is position 0.
        width: L, how many columns the caller passed.
        ends_in_text: no row ends in padding, so that what comes after `last` is as far from the end
            as it was.
        layerwise: later layers read fewer than `columns`.

    Raises:
        ValueError: a position whose token was dropped, or of which that isn't known.
    """
    last -= start
    if isinstance(wanted, int):
        text = width - 1 - last
        if last >= 0 and wanted > text:
            raise ValueError(
                f"logits_to_keep={wanted} asks for positions of dropped visual tokens: the last "
                f"{text} are text, pass that many at most, or 0 for all that are left"
            )
        return wanted
    if not isinstance(wanted, Tensor) or last < 0:
        return wanted

    # positions behind the last image: counted from the end they are what they were
    wanted = wanted.to(columns.device)
    is_mask = wanted.dtype == torch.bool
    if not is_mask:
        wanted = wanted.where(wanted >= 0, wanted + width)
        if wanted.dim() == 1 and ends_in_text and bool((wanted > last).all()):
            return wanted - width
    if layerwise:
        raise ValueError(
            "which visual tokens later layers read is not known in advance: let logits_to_keep ask "
            f"for positions after the last image (from {last + 1} on) of prompts without padding "
            "at their end"
        )

    columns = columns - start  # (B, L')
    if is_mask:
        kept = wanted.gather(1, columns.clamp(min=0)) & (columns >= 0)  # (B, L')
        if int(kept.sum()) != int(wanted.sum()):
            raise ValueError(DROPPED)
        return kept
    found = columns[:, None, :] == wanted[..., None]  # (B, P, L')
    if not bool(found.any(-1).all()):
        raise ValueError(DROPPED)
    index = found.int().argmax(-1)  # (B, P)
    return index[0] if len(index) == 1 else index
