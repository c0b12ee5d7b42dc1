"""What a model is to read of a call: a pruned prompt, or what follows one in a cache.

Calls of `forward` and of `generate` come through here. Letters: B rows, L columns of the caller's
prompt, L' of the shorter one, n columns of a cache, q columns that are new, q' of them kept.
"""

import inspect
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.attached_generation import logit_positions
from adafv.core.cached_prompt import (
    CachedPrompt,
    holds_images,
    is_placeholder,
    ones,
    recall,
    steps,
    text_alone,
)
from adafv.core.inputs import PIXELS, has_images
from adafv.core.prompt import FILL
from adafv.core.visual_tokens import Encoding
from adafv.families import family_of
from adafv.families.base import base_of
from adafv.utils.checks import checked

if TYPE_CHECKING:
    from adafv.core.pruner import Pruner

__all__ = ["Call", "begin", "resume"]

COLUMNS = "adafv_columns"
"""An input that is shortened with the caller's: 1 + its column, 0 in new padding."""
POSITIONAL = ("input_ids", "attention_mask", "position_ids", "cache_position")
"""Inputs that say what is read, and at which positions."""
NOT_OF_CHAT = ("past_key_values", "logits_to_keep")
"""Inputs that belong to one call, not to the chat."""
ENCODERS = ("get_image_features", "get_video_features")
LARGE = 1_000_000
"""More tokens than an image has: a budget that keeps them all keeps everything."""


@checked
@dataclass(frozen=True)
class Call:
    """A call that a model is to read.

    Attributes:
        inputs: for its own `forward` or `generate`.
        after: what the cache holds once it has read them.
    """

    inputs: dict[str, Any]
    after: CachedPrompt


@checked
def begin(
    pruner: "Pruner",
    model: PreTrainedModel,
    inputs: dict[str, Any],
    stack: ExitStack,
    generates: bool,
) -> Call:
    """Return a pruned prompt, to be read within contexts that `stack` holds open."""
    ids = inputs["input_ids"]  # (B, L)

    # prune, and let the columns of the prompt go along
    of_prompt = {name: x for name, x in inputs.items() if name != "past_key_values"}
    encoding = pruner.encode(model, of_prompt)
    short = pruner.prune(model, inputs | {COLUMNS: steps(ids) + 1}, encoding)
    columns = short.pop(COLUMNS) - 1  # (B, L')
    decoder = stack.enter_context(pruner.between_layers(model, encoding))

    # how positions go on
    lost = _loses(pruner, encoding)
    following = _following(encoding, short, lost, generates)  # (B, 1)
    counted: Literal["columns", "mask", "given"] = "mask" if generates else "columns"
    if encoding.positions is not None or short.get("position_ids") is not None:
        counted = "given"
    shift: Tensor | int = 0
    if following is not None and encoding.positions is None:
        shift = _shift(inputs, following, generates)  # (B, 1)

    after = CachedPrompt(
        ids=ids,
        short=short["input_ids"],
        columns=columns,
        following=following,
        counted=counted,
        shift=shift,
        axes=0 if encoding.positions is None else len(encoding.positions),
        lost=lost,
        layers=None if decoder is None else decoder.kept,
    )
    if lost and not generates:
        short |= _logits(inputs, encoding, columns, start=0, layerwise=decoder is not None)
    return Call(short, after)


@checked
def resume(
    pruner: "Pruner",
    model: PreTrainedModel,
    inputs: dict[str, Any],
    stack: ExitStack,
    generates: bool,
) -> Call:
    """Return what follows a prompt in a cache, to be read within contexts that `stack` holds open.

    Raises:
        ValueError: ids, rows or a mask that don't fit what the cache holds; images that can't be
            pruned any more.
    """
    ids = inputs["input_ids"]  # (B, C + q) or (B, q)
    mask = inputs.get("attention_mask")
    from_start = generates if mask is None else mask.shape == ids.shape
    known = recall(inputs["past_key_values"]) or text_alone(model, inputs, from_start)
    _check_follows(known, ids, from_start)

    # what is new
    read = known.ids.shape[1]
    new = ids[:, read:] if from_start else ids  # (B, q)
    past_mask, new_mask = _masks(known, mask, new.shape[1])  # (B, n), (B, q)
    rest = {name: x for name, x in inputs.items() if name not in POSITIONAL}
    part = _Part(new, new_mask, None, steps(new), rest, known)
    if has_images(inputs) and holds_images(model, new):
        part = _new_images(pruner, model, known, inputs, part, generates)
    else:
        if has_images(inputs):
            # of earlier turns, passed again
            consumed = _encoder_inputs(model)
            rest = {name: x for name, x in rest.items() if name not in consumed}
        part = _new_text(known, inputs, replace(part, rest=rest), generates)
    if known.layers is not None:
        stack.enter_context(known.layers.resumed(model.get_decoder()))

    # the inputs, in columns of the cache
    short = part.rest | {"input_ids": part.ids}
    if generates and from_start:
        short["input_ids"] = torch.cat([known.short.to(part.ids), part.ids], dim=1)  # (B, n + q')
    if past_mask is not None or part.mask is not None:
        past_mask = ones(known.columns) if past_mask is None else past_mask
        part_mask = ones(part.ids) if part.mask is None else part.mask
        short["attention_mask"] = torch.cat([past_mask, part_mask.to(past_mask)], dim=1)
    elif mask is not None and mask.dim() > 2:
        short["attention_mask"] = mask
    if part.positions is not None:
        short["position_ids"] = part.positions
    cache_position = inputs.get("cache_position")
    if cache_position is not None:
        start = known.columns.shape[1]
        end = start + part.ids.shape[1]
        short["cache_position"] = torch.arange(start, end, device=cache_position.device)  # (q',)
    return Call(short, part.after)


def _check_follows(known: CachedPrompt, ids: Tensor, from_start: bool) -> None:
    """Raise a `ValueError` if ids don't go on from what a cache holds."""
    if len(ids) != len(known.ids):
        raise ValueError(
            f"the cache holds {len(known.ids)} prompts, {len(ids)} are passed: pass the same batch"
        )
    if not from_start:
        return
    read = known.ids.shape[1]
    if ids.shape[1] <= read or not torch.equal(ids[:, :read].to(known.ids), known.ids):
        raise ValueError(
            "the prompt does not go on from what the cache holds: pass the full chat so far, "
            "answers as they were generated, or a new cache"
        )


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
    """Return new text, numbered behind what the cache holds."""
    width = part.ids.shape[1]

    # count what is new
    if part.mask is None:
        counted = part.columns  # (B, q)
        count: Tensor | int = width
    else:
        counted = (part.mask.long().cumsum(1) - 1).clamp(min=0)  # (B, q)
        count = part.mask.long().sum(1, keepdim=True)  # (B, 1)

    # its positions: the caller's in the model's numbers, or the next ones
    positions = inputs.get("position_ids")
    if positions is not None:
        positions = positions[..., -width:] - known.shift
    elif known.needs_positions(generates):
        assert known.following is not None
        positions = known.following + counted  # (B, q)
        if known.axes:
            positions = positions.expand(known.axes, *counted.shape)  # (A, B, q)

    rest: dict[str, Any] = {}
    for name, x in part.rest.items():
        rest[name] = x[..., -width:] if _runs_along(known, name, x, width) else x
    after = known.and_then(part.ids, part.ids, part.columns, count)
    return replace(part, positions=positions, rest=rest, after=after)


def _new_images(
    pruner: "Pruner",
    model: PreTrainedModel,
    known: CachedPrompt,
    inputs: dict[str, Any],
    part: _Part,
    generates: bool,
) -> _Part:
    """Prune the images of what is new.

    What is old is read along for its text, its placeholders are masked.
    """
    if pruner.layerwise and pruner.budget(LARGE) < LARGE:
        raise ValueError(
            "a method that prunes between the layers cannot prune the image of a later turn: pass "
            "a new cache with the full chat and its images, or choose a method that prunes before "
            "the language model"
        )
    read = known.ids.shape[1]  # C
    width = part.ids.shape[1]  # q

    # the mask of the full chat, with the old placeholders and without
    mask = inputs.get("attention_mask")
    before = ones(known.ids)  # (B, C)
    if mask is not None and mask.shape[1] == read + width:
        before = mask[:, :read].long()
    old = before.masked_fill(is_placeholder(model, known.ids), 0)  # (B, C)
    fresh = ones(part.ids) if part.mask is None else part.mask.long()  # (B, q)
    chat_mask = torch.cat([before, fresh], dim=1)  # (B, C + q)
    new_images_mask = torch.cat([old, fresh], dim=1)  # (B, C + q)

    # prune the full chat
    chat = _full_chat(known, part)
    encoding, chat = _encoded(pruner, model, chat, chat_mask, new_images_mask, read)
    short = pruner.prune(model, chat | {COLUMNS: steps(chat["input_ids"]) + 1}, encoding)

    # of that keep what is new, the longest row without padding
    columns = short.pop(COLUMNS) - 1  # (B, L') of the full chat
    is_new = (columns >= read).long()
    longest = int(is_new.sum(1).max())  # q'
    order = is_new.argsort(dim=1, stable=True)[:, -longest:]  # (B, q')
    real = is_new.gather(1, order).bool()  # (B, q')
    columns = columns.gather(1, order).where(real, -1)  # (B, q')
    new_mask = new_images_mask.gather(1, columns.clamp(min=0)).where(real, 0)  # (B, q')
    padded = not bool(real.all())
    lost = known.lost or _loses(pruner, encoding)
    if padded and family_of(model).ignores_position_ids:
        raise ValueError(
            f"models of the family {model.config.model_type!r} number their tokens by counting, so "
            "that no row may get padding between two turns: pass prompts that keep different "
            "numbers of tokens one by one"
        )

    # number it: by the positions of the full chat, or behind what the cache holds
    start = known.following  # (B, 1)
    if start is None:
        start = before.sum(1, keepdim=True) if generates else ones(before[:, :1]) * read
    original = _original_positions(pruner, encoding, chat["attention_mask"], read)
    if original is not None:
        full = original + start  # (…, B, C + q)
        given = inputs.get("position_ids")
        if given is not None:
            full = F.pad(given[..., -width:] - known.shift, (read, 0))
        index = columns.clamp(min=0).expand(*full.shape[:-2], *columns.shape)  # (…, B, q')
        positions = full.gather(-1, index)
        counting = positions.reshape(-1, *columns.shape)[-3:]  # (1 or 3, B, q')
        following = counting.masked_fill(~real, -1).amax((0, 2))[:, None] + 1  # (B, 1)
    else:
        positions = start + (new_mask.cumsum(1) - 1).clamp(min=0)  # (B, q')
        following = start + new_mask.sum(1, keepdim=True)  # (B, 1)
    numbered = original is not None or padded or known.needs_positions(generates)

    # note what the cache holds then
    new_ids = _picked(short["input_ids"], order)  # (B, q')
    after = known.and_then(part.ids, new_ids, (columns - read).clamp(min=-1), 0)
    shift = known.shift
    if original is None:
        shift = known.shift + (fresh.sum(1) - new_mask.sum(1))[:, None]  # (B, 1)
    after = replace(
        after,
        following=following if numbered or lost else None,
        counted="given" if original is not None or padded else known.counted,
        shift=shift,
        axes=0 if encoding.positions is None else len(encoding.positions),
        lost=lost,
    )

    # the other inputs: of what runs along the chat, what is new
    consumed = _encoder_inputs(model)
    rest: dict[str, Any] = {}
    for name, x in short.items():
        if name in POSITIONAL or name in consumed:
            continue
        along = isinstance(chat.get(name), Tensor) and _runs_along(known, name, chat[name], width)
        rest[name] = _picked(x, order).where(real, FILL.get(name, 0)) if along else x
    rest["past_key_values"] = inputs["past_key_values"]
    if "logits_to_keep" in inputs:
        rest["logits_to_keep"] = inputs["logits_to_keep"]
        rest |= _logits(inputs, encoding, columns, start=read, layerwise=False)
    return _Part(
        ids=new_ids,
        mask=None if part.mask is None and bool(new_mask.all()) else new_mask,
        positions=positions if numbered else None,
        columns=columns,
        rest=rest,
        after=after,
    )


def _full_chat(known: CachedPrompt, part: _Part) -> dict[str, Any]:
    """Return the inputs of the full chat, of which a cache holds the old part."""
    read = known.ids.shape[1]
    width = part.ids.shape[1]
    chat: dict[str, Any] = {}
    for name, x in part.rest.items():
        if name in NOT_OF_CHAT:
            continue
        if _runs_along(known, name, x, width, old=False):
            x = F.pad(x, (read, 0), value=FILL.get(name, 0))  # (…, B, C + q)
        chat[name] = x
    chat["input_ids"] = torch.cat([known.ids.to(part.ids), part.ids], dim=1)  # (B, C + q)
    return chat


def _encoded(
    pruner: "Pruner",
    model: PreTrainedModel,
    chat: dict[str, Any],
    mask: Tensor,
    new_images_mask: Tensor,
    read: int,
) -> tuple[Encoding, dict[str, Any]]:
    """Return the new images of a chat, and inputs that hold no others.

    The pixels are those of the new images alone or, else, of all: then the tower reads the old ones
    once more.
    """
    new = chat | {"attention_mask": new_images_mask}
    try:
        return pruner.encode(model, new), new
    except ValueError as error:
        try:
            encoding = pruner.encode(model, chat | {"attention_mask": mask})
        except ValueError:
            raise error from None

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


def _following(
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


def _shift(inputs: dict[str, Any], following: Tensor, generates: bool) -> Tensor:
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


def _masks(
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


def _logits(
    inputs: dict[str, Any], encoding: Encoding, columns: Tensor, start: int, layerwise: bool
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


def _loses(pruner: "Pruner", encoding: Encoding) -> bool:
    """Return whether any image loses a token to its budget."""
    return any(pruner.budget(count) != count for count in encoding.tokens.counts)


def _runs_along(known: CachedPrompt, name: str, x: object, width: int, old: bool = True) -> bool:
    """Return whether something has a number for each new token.

    Args:
        width: q.
        old: or for each token of the chat so far.
    """
    if not isinstance(x, Tensor) or x.dim() < 2 or x.is_floating_point():
        return False
    # what describes images could have such a shape by chance
    if name.startswith(("pixel", "image", "video")):
        return False
    widths = [width]
    if old:
        widths.append(known.ids.shape[1] + width)
    return x.shape[-2] == len(known.ids) and x.shape[-1] in widths


def _picked(x: Tensor, order: Tensor) -> Tensor:
    """Return the entries (…, B, q') of some columns (B, q') of (…, B, L')."""
    return x.gather(-1, order.expand(*x.shape[:-2], *order.shape))


def _encoder_inputs(model: PreTrainedModel) -> set[str]:
    """Return the names of what the encoders of a model take."""
    names = set(PIXELS.values())
    for name in ENCODERS:
        encoder = getattr(base_of(model), name, None)
        if encoder is not None:
            names.update(inspect.signature(encoder).parameters)
    return names
