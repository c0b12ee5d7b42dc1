"""Images of a later turn, pruned while the cache of the chat is kept.

Letters: B rows, C columns of the caller's that are read, q new ones, q' of them kept, A axes of
position ids.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.attached.cached_prompt import (
    UNKNOWN,
    CachedPrompt,
    is_placeholder,
    ones,
    steps,
)
from adafv.core.attached.call_columns import (
    COLUMNS,
    POSITIONAL,
    encoder_inputs,
    runs_along,
)
from adafv.core.logits_to_keep import logits_kept
from adafv.core.rebuild import padding_id
from adafv.core.shorter_prompt import FILL
from adafv.core.visual_tokens import Encoding
from adafv.families import family_of
from adafv.utils.checks import checked

if TYPE_CHECKING:
    from adafv.core.pruner import Pruner

__all__ = ["Part", "new_images"]

NOT_OF_CHAT = ("past_key_values", "logits_to_keep")
"""Inputs that belong to one call, not to the chat."""
LARGE = 1_000_000
"""More tokens than an image has: a budget that keeps them all keeps everything."""


@checked
@dataclass(frozen=True)
class Part:
    """The new part of a prompt.

    Attributes:
        ids: (B, q). mask: (B, q), None where all are real.
        positions: (B, q) or (A, B, q) position ids, None where the model counts them itself.
        columns: (B, q) which of the caller's new columns these are; -1 for padding.
        rest: the other inputs.
        after: what the cache holds once this is read, too.
    """

    ids: Tensor
    mask: Tensor | None
    positions: Tensor | None
    columns: Tensor
    rest: dict[str, Any]
    after: CachedPrompt


@checked
def new_images(
    pruner: "Pruner",
    model: PreTrainedModel,
    known: CachedPrompt,
    inputs: dict[str, Any],
    part: Part,
    generates: bool,
) -> Part:
    """Prune the images of what is new.

    What is old is read along for its text, its images are masked.
    """
    _check_not_layerwise(pruner)
    read = known.ids.shape[1]  # C
    masks = _masks(model, known, inputs.get("attention_mask"), part)

    # prune the full chat
    chat = _full_chat(known, part)
    encoding, chat = _encoded(pruner, model, chat, masks, read)
    short = pruner.prune(model, chat | {COLUMNS: steps(chat["input_ids"]) + 1}, encoding)

    # of that keep what is new
    new = _new_columns(short.pop(COLUMNS) - 1, masks, read)
    if new.padded:
        _check_padding(model)
    new_ids = _picked(short["input_ids"], new.order)  # (B, q')
    # what stands there in a row with padding is old, perhaps a placeholder
    new_ids = new_ids.where(new.real, padding_id(model))

    # number it: behind what the cache holds, or by the positions of the full chat
    start = _next_position(known, masks, generates)  # (B, 1)
    original = _original_positions(pruner, encoding, chat["attention_mask"], read)  # (…, B, C + q)
    shift = known.shift
    if original is None:
        shift = shift + masks.fresh.sum(1, keepdim=True) - new.mask.sum(1, keepdim=True)  # (B, 1)
        positions, following = _counted_on(start, new)
    else:
        given = inputs.get("position_ids")
        full = original + start if given is None else _moved(given, known, part)
        positions, following = _as_in_full_chat(full, new)
    told = original is not None or new.padded
    numbered = told or known.needs_positions(generates)

    # note what the cache holds then
    lost = known.lost or pruner.loses_tokens(encoding)
    after = replace(
        known.and_then(part.ids, new_ids, (new.columns - read).clamp(min=-1), 0),
        following=following if numbered or lost else None,
        counted="given" if told else known.counted,
        shift=shift,
        axes=0 if encoding.positions is None else len(encoding.positions),
        lost=lost,
    )

    # the other inputs: of what runs along the chat, what is new
    rest = _new_of(short, chat, known, part, new, encoder_inputs(model))
    rest["past_key_values"] = inputs["past_key_values"]
    if "logits_to_keep" in inputs:
        rest["logits_to_keep"] = inputs["logits_to_keep"]
        rest |= logits_kept(inputs, encoding, new.columns, start=read, layerwise=False)
    return Part(
        ids=new_ids,
        mask=None if part.mask is None and bool(new.mask.all()) else new.mask,
        positions=positions if numbered else None,
        columns=new.columns,
        rest=rest,
        after=after,
    )


def _check_not_layerwise(pruner: "Pruner") -> None:
    """Raise a `ValueError` of a method that prunes between the layers, unless it keeps all."""
    if pruner.layerwise and pruner.budget(LARGE) < LARGE:
        raise ValueError(
            "a method that prunes between the layers cannot prune the image of a later turn: pass "
            "a new cache with the full chat and its images, or choose a method that prunes before "
            "the language model"
        )


@dataclass(frozen=True)
class _NewColumns:
    """What is new in a pruned chat, in rows as long as the longest.

    Attributes:
        columns: (B, q') of the full chat; -1 for padding.
        order: (B, q') columns of the pruned chat.
        real: (B, q') which of them are no padding.
        mask: (B, q') which of them are read.
    """

    columns: Tensor
    order: Tensor
    real: Tensor
    mask: Tensor

    @property
    def padded(self) -> bool:
        """Return whether a row is shorter than the longest."""
        return not bool(self.real.all())


def _new_columns(columns: Tensor, masks: "_Masks", read: int) -> _NewColumns:
    """Return what is new among the columns (B, L') of the full chat that are left."""
    is_new = (columns >= read).long()
    longest = int(is_new.sum(1).max())  # q'
    order = is_new.argsort(dim=1, stable=True)[:, -longest:]  # (B, q')
    real = is_new.gather(1, order).bool()  # (B, q')
    columns = columns.gather(1, order).where(real, -1)  # (B, q')
    mask = masks.new_images.gather(1, columns.clamp(min=0)).where(real, 0)  # (B, q')
    return _NewColumns(columns, order, real, mask)


def _next_position(known: CachedPrompt, masks: "_Masks", generates: bool) -> Tensor:
    """Return the position (B, 1) behind what the cache holds, as the model counts."""
    if known.following is not None:
        return known.following
    # generate counts what is no padding, forward counts columns
    if generates:
        return masks.before.sum(1, keepdim=True)
    return torch.full_like(masks.before[:, :1], masks.before.shape[1])


def _counted_on(start: Tensor, new: _NewColumns) -> tuple[Tensor, Tensor]:
    """Return positions (B, q') from `start` (B, 1) on, without gaps, and the next one (B, 1)."""
    positions = start + (new.mask.cumsum(1) - 1).clamp(min=0)
    return positions, start + new.mask.sum(1, keepdim=True)


def _as_in_full_chat(full: Tensor, new: _NewColumns) -> tuple[Tensor, Tensor]:
    """Return the positions (…, B, q') in a full chat (…, B, L), and the next one (B, 1)."""
    positions = _picked(full, new.columns.clamp(min=0))
    counting = positions.reshape(-1, *new.columns.shape)[-3:]  # (1 or 3, B, q')
    last = counting.masked_fill(~new.real, -1).amax((0, 2))[:, None]  # (B, 1)
    return positions, last + 1


def _check_padding(model: PreTrainedModel) -> None:
    """Raise a `ValueError` of a model that reads padding between two turns, or counts it."""
    config = model.get_decoder().config
    types = getattr(config, "layer_types", None) or ()
    kinds = set(types) - {"full_attention"}
    if not types and getattr(config, "sliding_window", None):
        kinds.add("sliding_attention")

    # a state takes padding in, a window of columns ends earlier for it
    if kinds:
        reason = f"have layers of {', '.join(sorted(kinds))}, for which it counts though masked"
    elif family_of(model).ignores_position_ids:
        reason = "number their tokens by counting"
    else:
        return
    raise ValueError(
        f"no row may get padding between two turns, since models of the family "
        f"{model.config.model_type!r} {reason}: pass prompts that keep different numbers of tokens "
        "one by one"
    )


@dataclass(frozen=True)
class _Masks:
    """What of a chat is no padding.

    Attributes:
        before: (B, C) of what the cache holds.
        fresh: (B, q) of what is new.
        chat: (B, C + q) of both, without text whose ids are not known.
        new_images: (B, C + q) the same without the images that the cache holds.
    """

    before: Tensor
    fresh: Tensor
    chat: Tensor
    new_images: Tensor


def _masks(model: PreTrainedModel, known: CachedPrompt, mask: Tensor | None, part: Part) -> _Masks:
    """Return the masks of a chat; without a mask of the whole chat all that is old is real."""
    read = known.ids.shape[1]
    before = ones(known.ids)  # (B, C)
    if mask is not None and mask.shape[1] == read + part.ids.shape[1]:
        before = mask[:, :read].long()
    gap = family_of(model).max_crop_gap or 0
    # text that nobody knows asks nothing
    text = before.masked_fill(known.ids == UNKNOWN, 0)  # (B, C)
    old = text.masked_fill(_images(is_placeholder(model, known.ids), gap), 0)  # (B, C)
    fresh = ones(part.ids) if part.mask is None else part.mask.long()  # (B, q)
    return _Masks(before, fresh, torch.cat([text, fresh], dim=1), torch.cat([old, fresh], dim=1))


def _images(placeholder: Tensor, gap: int) -> Tensor:
    """Return placeholders (B, C) and what stands between the crops of an image.

    Args:
        gap: crops of one image are at most so many tokens apart.
    """
    columns = torch.arange(placeholder.shape[1], device=placeholder.device).expand_as(placeholder)
    far = placeholder.shape[1] + gap + 1
    last = columns.where(placeholder, -far).cummax(1).values  # (B, C) the one before, or itself
    following = columns.where(placeholder, 2 * far).flip(1).cummin(1).values.flip(1)  # (B, C)
    return following - last <= gap + 1


def _full_chat(known: CachedPrompt, part: Part) -> dict[str, Any]:
    """Return the inputs of the full chat, of which a cache holds the old part."""
    read = known.ids.shape[1]
    width = part.ids.shape[1]
    chat: dict[str, Any] = {}
    for name, x in part.rest.items():
        if name in NOT_OF_CHAT:
            continue
        if runs_along(known, name, x, width, old=False):
            x = F.pad(x, (read, 0), value=FILL.get(name, 0))  # (…, B, C + q)
        chat[name] = x
    chat["input_ids"] = torch.cat([known.ids.to(part.ids), part.ids], dim=1)  # (B, C + q)
    return chat


def _encoded(
    pruner: "Pruner",
    model: PreTrainedModel,
    chat: dict[str, Any],
    masks: _Masks,
    read: int,
) -> tuple[Encoding, dict[str, Any]]:
    """Return the new images of a chat, and inputs that hold no others.

    The pixels are those of the new images alone or, else, of all: then the tower reads the old ones
    once more.
    """
    new = chat | {"attention_mask": masks.new_images}
    try:
        return pruner.encode(model, new), new
    except ValueError as error:
        try:
            encoding = pruner.encode(model, chat | {"attention_mask": masks.chat})
        except ValueError:
            raise error from None

    if any(part.modality == "video" for part in encoding.returned):
        raise ValueError(
            "a later turn with a video needs the pixels of its new videos alone: leave out those "
            "of earlier turns, or start a new chat"
        )

    # leave out the old ones
    images = [i for i, span in enumerate(encoding.spans) if int(span.positions[0]) >= read]
    for name in encoding.consumed:
        if isinstance(new[name], Tensor) and len(new[name]) == len(encoding.spans):
            new[name] = new[name][images]
    return pruner.reask(model, new, encoding, images), new


def _original_positions(
    pruner: "Pruner", encoding: Encoding, mask: Tensor, read: int
) -> Tensor | None:
    """Return the positions (…, B, L) that tokens keep, counted from where the new part begins.

    None: they don't keep them.
    """
    if encoding.positions is None and pruner.positions != "original":
        return None
    full = mask.cumsum(1) - 1 if encoding.positions is None else encoding.positions
    old = mask[:, :read].sum(1, keepdim=True)  # (B, 1)
    return full - old


def _moved(given: Tensor, known: CachedPrompt, part: Part) -> Tensor:
    """Return the caller's positions of a full chat (…, B, C + q) in the numbers of the cache."""
    own = given[..., -part.ids.shape[1] :] - known.shift  # (…, B, q)
    return F.pad(own, (known.ids.shape[1], 0))


def _new_of(
    short: dict[str, Any],
    chat: dict[str, Any],
    known: CachedPrompt,
    part: Part,
    new: _NewColumns,
    consumed: set[str],
) -> dict[str, Any]:
    """Return the inputs beside ids, mask and positions, of what is new alone.

    Args:
        short: of the pruned chat.
        chat: of the full one.
        consumed: names of inputs that the encoders have used up.
    """
    rest: dict[str, Any] = {}
    for name, x in short.items():
        if name in POSITIONAL or name in consumed:
            continue
        full = chat.get(name)
        along = isinstance(full, Tensor) and runs_along(known, name, full, part.ids.shape[1])
        rest[name] = _picked(x, new.order).where(new.real, FILL.get(name, 0)) if along else x
    return rest


def _picked(x: Tensor, order: Tensor) -> Tensor:
    """Return the entries (…, B, q') of some columns (B, q') of (…, B, L')."""
    return x.gather(-1, order.expand(*x.shape[:-2], *order.shape))
