"""What a model is to read of a call of `forward` or `generate`: a pruned prompt, or what follows
one in a cache.
"""

import inspect
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.core.attached_generation import places_of_logits
from adafv.core.cached_prompt import (
    CachedPrompt,
    holds_images,
    is_placeholder,
    ones,
    recall,
    steps,
    text_alone,
)
from adafv.core.prompt import FILL, PIXELS, has_images
from adafv.core.visual_tokens import Encoding
from adafv.families import family_of
from adafv.families.base import base_of
from adafv.utils.checks import checked

if TYPE_CHECKING:
    from adafv.core.pruner import Pruner

__all__ = ["Call", "begin", "resume"]

# runs along the sequence with the caller's inputs: 1 + its column, 0 where padding is put
COLUMNS = "adafv_columns"
PLACED = ("input_ids", "attention_mask", "position_ids", "cache_position")
ENCODERS = ("get_image_features", "get_video_features")
LARGE = 1_000_000


@checked
@dataclass(frozen=True)
class Call:
    """What a model is to read.

    Attributes:
        inputs: for its own `forward` or `generate`.
        after: what the cache holds once it has read them.
    """

    inputs: dict[str, Any]
    after: CachedPrompt


@checked
def begin(
    pruner: "Pruner", model: Any, inputs: dict[str, Any], stack: ExitStack, generates: bool
) -> Call:
    """Return a pruned prompt, to be read within contexts that `stack` holds open."""
    ids = inputs["input_ids"]  # (B, L)
    encoding = pruner.encode(
        model, {name: x for name, x in inputs.items() if name != "past_key_values"}
    )
    short = pruner.prune(model, inputs | {COLUMNS: steps(ids) + 1}, encoding)
    columns = short.pop(COLUMNS) - 1  # (B, n)
    reading = stack.enter_context(pruner.between_layers(model, encoding))

    lost = _loses(pruner, encoding)
    following = _following(encoding, short, lost, generates)
    given = encoding.positions is not None or short.get("position_ids") is not None
    after = CachedPrompt(
        ids=ids,
        short=short["input_ids"],
        columns=columns,
        following=following,
        counted="given" if given else "mask" if generates else "columns",
        shift=0
        if following is None or encoding.positions is not None
        else _shift(inputs, following, generates),
        axes=0 if encoding.positions is None else len(encoding.positions),
        lost=lost,
        layers=None if reading is None else reading.kept,
    )
    if lost and not generates:
        short |= _logits(inputs, encoding, columns, 0, reading is not None)
    return Call(short, after)


@checked
def resume(
    pruner: "Pruner", model: Any, inputs: dict[str, Any], stack: ExitStack, generates: bool
) -> Call:
    """Return what follows a prompt that is in a cache, to be read within contexts that `stack`
    holds open.

    Raises:
        ValueError: ids, rows or a mask that don't fit what the cache holds; images that can't be
            pruned any more.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    from_start = generates if mask is None else mask.shape == ids.shape
    known = recall(inputs["past_key_values"]) or text_alone(model, inputs, from_start)
    read = known.ids.shape[1]
    if len(ids) != len(known.ids):
        raise ValueError(
            f"the cache holds {len(known.ids)} prompts, {len(ids)} are passed: pass the same batch"
        )
    if from_start and (
        ids.shape[1] <= read or not torch.equal(ids[:, :read].to(known.ids), known.ids)
    ):
        raise ValueError(
            "the prompt does not go on from what the cache holds: pass the whole chat so far, answers as they were "
            "generated, or a new cache"
        )
    new = ids[:, read:] if from_start else ids  # (B, q)
    past_mask, new_mask = _masks(known, mask, new.shape[1])
    rest = {name: x for name, x in inputs.items() if name not in PLACED}
    if has_images(inputs) and holds_images(model, new):
        part = _new_images(
            pruner,
            model,
            known,
            inputs,
            _Part(new, new_mask, None, steps(new), rest, known),
            generates,
        )
    else:
        # of earlier turns, passed again
        consumed = _encoder_inputs(model) if has_images(inputs) else set()
        rest = {name: x for name, x in rest.items() if name not in consumed}
        part = _new_text(
            known, inputs, _Part(new, new_mask, None, steps(new), rest, known), generates
        )
    if known.layers is not None:
        stack.enter_context(known.layers.resumed(model.get_decoder()))

    short = part.rest | {"input_ids": part.ids}
    if generates and from_start:
        short["input_ids"] = torch.cat([known.short.to(part.ids), part.ids], dim=1)
    if past_mask is not None or part.mask is not None:
        past_mask = ones(known.columns) if past_mask is None else past_mask
        part_mask = ones(part.ids) if part.mask is None else part.mask
        short["attention_mask"] = torch.cat([past_mask, part_mask.to(past_mask)], dim=1)
    elif mask is not None and mask.dim() > 2:
        short["attention_mask"] = mask
    if part.positions is not None:
        short["position_ids"] = part.positions
    if (places := inputs.get("cache_position")) is not None:
        start = known.columns.shape[1]
        short["cache_position"] = torch.arange(
            start, start + part.ids.shape[1], device=places.device
        )
    return Call(short, part.after)


@dataclass(frozen=True)
class _Part:
    """What is new in a prompt.

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


def _new_text(known: CachedPrompt, inputs: dict[str, Any], part: _Part, generates: bool) -> _Part:
    width = part.ids.shape[1]
    # (B, q)
    counted = part.columns if part.mask is None else (part.mask.long().cumsum(1) - 1).clamp(min=0)
    count = width if part.mask is None else part.mask.long().sum(1, keepdim=True)
    positions = inputs.get("position_ids")
    if positions is not None:
        positions = positions[..., -width:] - known.shift
    elif known.needs_positions(generates):
        assert known.following is not None
        positions = known.following + counted
        positions = positions.expand(known.axes, *counted.shape) if known.axes else positions
    rest = {
        name: x[..., -width:] if _runs_along(known, name, x, width) else x
        for name, x in part.rest.items()
    }
    after = known.and_then(part.ids, part.ids, part.columns, count)
    return replace(part, positions=positions, rest=rest, after=after)


def _new_images(
    pruner: "Pruner",
    model: Any,
    known: CachedPrompt,
    inputs: dict[str, Any],
    part: _Part,
    generates: bool,
) -> _Part:
    """Prune the images of what is new.

    What is old is read along for its words, its placeholders are masked.
    """
    if pruner.layerwise and pruner.budget(LARGE) < LARGE:
        raise ValueError(
            "a method that prunes between the layers cannot prune the image of a later turn: pass a new cache with the "
            "whole chat and its images, or choose a method that prunes before the language model"
        )
    read, width = known.ids.shape[1], part.ids.shape[1]
    mask = inputs.get("attention_mask")
    before = (
        ones(known.ids) if mask is None or mask.shape[1] != read + width else mask[:, :read].long()
    )
    old = before.masked_fill(is_placeholder(model, known.ids), 0)
    fresh = ones(part.ids) if part.mask is None else part.mask.long()
    chat = {
        name: F.pad(x, (read, 0), value=FILL.get(name, 0))
        if _runs_along(known, name, x, width, old=False)
        else x
        for name, x in part.rest.items()
        if name not in ("past_key_values", "logits_to_keep")
    }
    chat |= {"input_ids": torch.cat([known.ids.to(part.ids), part.ids], dim=1)}
    encoding, chat = _encoded(
        pruner, model, chat, torch.cat([before, fresh], 1), torch.cat([old, fresh], 1), read
    )
    short = pruner.prune(model, chat | {COLUMNS: steps(chat["input_ids"]) + 1}, encoding)

    columns = short.pop(COLUMNS) - 1  # (B, L') of the whole chat
    is_new = columns >= read
    order = is_new.long().argsort(dim=1, stable=True)[:, -int(is_new.sum(1).max()) :]  # (B, q')
    real = is_new.gather(1, order)
    columns = columns.gather(1, order).where(real, -1)  # (B, q')
    new_mask = torch.cat([old, fresh], 1).gather(1, columns.clamp(min=0)).where(real, 0)
    lost = known.lost or _loses(pruner, encoding)
    if family_of(model).ignores_position_ids and not bool(real.all()):
        raise ValueError(
            f"models of the family {model.config.model_type!r} number their tokens by counting, so that no row may get "
            "padding between two turns: pass prompts that keep different numbers of tokens one by one"
        )

    start = known.following
    if start is None:
        start = before.sum(1, keepdim=True) if generates else ones(before[:, :1]) * read
    original = _original_positions(pruner, encoding, chat["attention_mask"], read)
    if original is not None:
        asked = inputs.get("position_ids")
        whole = (
            original + start
            if asked is None
            else F.pad(asked[..., -width:] - known.shift, (read, 0))
        )
        positions = whole.gather(-1, columns.clamp(min=0).expand(*whole.shape[:-2], *columns.shape))
        following = (
            positions.reshape(-1, *columns.shape)[-3:].masked_fill(~real, -1).amax((0, 2))[:, None]
            + 1
        )
    else:
        positions = start + (new_mask.cumsum(1) - 1).clamp(min=0)
        following = start + new_mask.sum(1, keepdim=True)
    padded = not bool(real.all())
    numbered = original is not None or padded or known.needs_positions(generates)
    after = known.and_then(
        part.ids, new_ids := _picked(short["input_ids"], order), (columns - read).clamp(min=-1), 0
    )
    after = replace(
        after,
        following=following if numbered or lost else None,
        counted="given" if original is not None or padded else known.counted,
        shift=known.shift
        if original is not None
        else known.shift + (fresh.sum(1) - new_mask.sum(1))[:, None],
        axes=0 if encoding.positions is None else len(encoding.positions),
        lost=lost,
    )

    rest = {
        name: x
        for name, x in short.items()
        if name not in PLACED and name not in _encoder_inputs(model)
    }
    for name, x in rest.items():
        if isinstance(chat.get(name), Tensor) and _runs_along(known, name, chat[name], width):
            rest[name] = _picked(x, order).where(real, FILL.get(name, 0))
    rest |= {"past_key_values": inputs["past_key_values"]}
    if "logits_to_keep" in inputs:
        rest |= {"logits_to_keep": inputs["logits_to_keep"]} | _logits(
            inputs, encoding, columns, read, False
        )
    return _Part(
        ids=new_ids,
        mask=None if part.mask is None and bool(new_mask.all()) else new_mask,
        positions=positions if numbered else None,
        columns=columns,
        rest=rest,
        after=after,
    )


def _encoded(
    pruner: "Pruner", model: Any, chat: dict[str, Any], mask: Tensor, alone: Tensor, read: int
) -> tuple[Encoding, dict[str, Any]]:
    """Return the new images of a chat, and inputs that hold no others.

    The pixels are those of the new images alone or, else, of all: then the tower reads the old ones
    once more.
    """
    new = chat | {"attention_mask": alone}
    try:
        return pruner.encode(model, new), new
    except ValueError as error:
        try:
            encoding = pruner.encode(model, chat | {"attention_mask": mask})
        except ValueError:
            raise error from None
    images = [i for i, span in enumerate(encoding.spans) if int(span.positions[0]) >= read]
    for name in encoding.consumed:
        if isinstance(new[name], Tensor) and len(new[name]) == len(encoding.spans):
            new[name] = new[name][images]
    return pruner.reask(model, new, encoding, images), new


def _original_positions(
    pruner: "Pruner", encoding: Encoding, mask: Tensor, read: int
) -> Tensor | None:
    """Return the positions (…, B, L) that tokens keep, counted from where the new part begins;
    None: they don't.
    """
    if encoding.positions is None and pruner.positions != "original":
        return None
    whole = mask.cumsum(1) - 1 if encoding.positions is None else encoding.positions
    return whole - mask[:, :read].sum(1, keepdim=True)


def _following(
    encoding: Encoding, short: dict[str, Any], lost: bool, generates: bool
) -> Tensor | None:
    """Return the position (B, 1) of what follows a shorter prompt.

    None: the model counts it itself.
    """
    ids, mask = short["input_ids"], short.get("attention_mask")
    mask = ones(ids) if mask is None else mask
    if encoding.positions is not None:
        whole = encoding.prompt.mask.to(ids.device)  # (B, L)
        return encoding.positions[-3:].masked_fill(~whole, -1).amax((0, 2))[:, None] + 1
    if not lost:
        return None
    if (positions := short.get("position_ids")) is not None:
        return positions.expand(ids.shape).masked_fill(mask == 0, -1).amax(1, keepdim=True) + 1
    return mask.sum(1, keepdim=True) if generates else ones(ids[:, :1]) * ids.shape[1]


def _shift(inputs: dict[str, Any], following: Tensor, generates: bool) -> Tensor:
    """Return by how much (B, 1) the caller's position of what follows exceeds the model's."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    mask = ones(ids) if mask is None else mask
    if (positions := inputs.get("position_ids")) is not None:
        return (
            positions.expand(ids.shape).masked_fill(mask == 0, -1).amax(1, keepdim=True)
            + 1
            - following
        )
    return (mask.sum(1, keepdim=True) if generates else ids.shape[1]) - following


def _masks(
    known: CachedPrompt, mask: Tensor | None, width: int
) -> tuple[Tensor | None, Tensor | None]:
    """Return the mask of what the cache holds (B, n), and of what is new (B, q); None where all is
    real.
    """
    read, short = known.ids.shape[1], known.columns.shape[1]
    if mask is None:
        return (known.columns >= 0).long() if known.padded else None, None
    if mask.dim() == 2 and mask.shape[1] == read + width:
        return known.cut(mask), mask[:, read:]
    if mask.dim() == 2 and mask.shape[1] == short + width:
        return mask[:, :short], mask[:, short:]
    if mask.dim() > 2 and not known.lost:
        return None, None
    raise ValueError(
        f"attention_mask is {tuple(mask.shape)}, the cache holds {read} tokens of each prompt and {width} are new: "
        f"pass a mask of {len(known.ids)} x {read + width}"
    )


def _logits(
    inputs: dict[str, Any], encoding: Encoding, columns: Tensor, start: int, layerwise: bool
) -> dict[str, Any]:
    """Return `logits_to_keep` in terms of a shorter prompt, if the caller passed it."""
    wanted = inputs.get("logits_to_keep")
    if wanted is None:
        return {}
    prompt = encoding.prompt
    last = int(prompt.placeholder.any(0).nonzero().max())
    width, ends = prompt.ids.shape[1] - start, bool(prompt.mask[:, -1].all())
    return {
        "logits_to_keep": places_of_logits(wanted, columns, last, start, width, ends, layerwise)
    }


def _loses(pruner: "Pruner", encoding: Encoding) -> bool:
    return any(pruner.budget(count) != count for count in encoding.tokens.counts)


def _runs_along(known: CachedPrompt, name: str, x: Any, width: int, old: bool = True) -> bool:
    """Whether something has a number for each new token, or (unless `old` is false) for each of the
    chat so far.
    """
    if (
        not isinstance(x, Tensor)
        or x.dim() < 2
        or x.is_floating_point()
        or name.startswith(("pixel", "image", "video"))
    ):
        return False
    return x.shape[-2] == len(known.ids) and x.shape[-1] in (
        width,
        *((known.ids.shape[1] + width,) if old else ()),
    )


def _picked(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(-1, order.expand(*x.shape[:-2], *order.shape))


def _encoder_inputs(model: Any) -> set[str]:
    """Return the names of what the encoders of a model take."""
    encoders = [getattr(base_of(model), name, None) for name in ENCODERS]
    names = {
        name
        for encoder in encoders
        if encoder is not None
        for name in inspect.signature(encoder).parameters
    }
    return names | {*PIXELS.values()}
