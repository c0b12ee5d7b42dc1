"""What a model is to read of a call: a pruned prompt, or what follows one in a cache.

Calls of `forward` and of `generate` come through here. Letters: B rows, L columns of the caller's
prompt, L' of the shorter one, n columns of a cache, q columns that are new, q' of them kept.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.attached.cached_prompt import (
    CachedPrompt,
    holds_images,
    ones,
    recall,
    steps,
    text_alone,
)
from adafv.core.attached.call_columns import (
    COLUMNS,
    POSITIONAL,
    encoder_inputs,
    following_position,
    masks_of,
    runs_along,
    shift_of,
)
from adafv.core.attached.later_images import Part, new_images
from adafv.core.inputs import has_images, inferred_pad_id, option_of
from adafv.utils.checks import checked

if TYPE_CHECKING:
    from adafv.core.pruner import Pruner

__all__ = [
    "Call",
    "begin",
    "resume",
]


Kwargs = dict[str, Any]
"""What a model was called with, by name."""
ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")
"""Arguments of `generate` by which several tokens are guessed and then checked."""
NO_TOKEN = -1
"""An id that no token has: `forward` takes nothing for padding."""


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
    pruner: "Pruner", model: PreTrainedModel, inputs: Kwargs, stack: ExitStack, generates: bool
) -> Call:
    """Return a pruned prompt, to be read within contexts that `stack` holds open."""
    ids = inputs["input_ids"]  # (B, L)
    inputs = _with_mask(model, inputs, generates)

    # prune, and let the columns of the prompt go along
    of_prompt = {name: x for name, x in inputs.items() if name != "past_key_values"}
    if not generates:
        of_prompt["pad_token_id"] = NO_TOKEN
    encoding = pruner.encode(model, of_prompt)
    short = pruner.prune(model, inputs | {COLUMNS: steps(ids) + 1}, encoding)
    columns = short.pop(COLUMNS) - 1  # (B, L')
    decoder = stack.enter_context(pruner.between_layers(model, encoding))

    # how positions go on
    lost = pruner.loses_tokens(encoding)
    following = following_position(encoding, short, lost, generates)  # (B, 1)
    counted: Literal["columns", "mask", "given"] = "mask" if generates else "columns"
    if encoding.positions is not None or short.get("position_ids") is not None:
        counted = "given"
    shift: Tensor | int = 0
    if following is not None and encoding.positions is None:
        shift = shift_of(inputs, following, generates)  # (B, 1)

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
    return Call(short, after)


@checked
def resume(
    pruner: "Pruner", model: PreTrainedModel, inputs: Kwargs, stack: ExitStack, generates: bool
) -> Call:
    """Return what follows a prompt in a cache, to be read within contexts that `stack` holds open.

    Raises:
        ValueError: ids, rows or a mask that don't fit what the cache holds; images that can't be
            pruned any more; assisted decoding.
    """
    ids = inputs["input_ids"]  # (B, C + q) or (B, q)
    if generates:
        _check_decoding(model, inputs)
    inputs = _with_mask(model, inputs, generates)
    mask = inputs.get("attention_mask")
    from_start = generates if mask is None else mask.shape == ids.shape
    known = recall(inputs["past_key_values"]) or text_alone(model, inputs, from_start)
    _check_follows(known, ids, from_start)

    # what is new
    read = known.ids.shape[1]
    new = ids[:, read:] if from_start else ids  # (B, q)
    past_mask, new_mask = masks_of(known, mask, new.shape[1])  # (B, n), (B, q)
    rest = {name: x for name, x in inputs.items() if name not in POSITIONAL}
    part = Part(new, new_mask, None, steps(new), rest, known)
    if has_images(inputs) and holds_images(model, new):
        part = new_images(pruner, model, known, inputs, part, generates)
    else:
        if has_images(inputs):
            # of earlier turns, passed again
            consumed = encoder_inputs(model)
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


def _with_mask(model: PreTrainedModel, inputs: Kwargs, generates: bool) -> Kwargs:
    """Return the inputs with the mask (B, C + q) that `generate` infers; `forward` infers none."""
    if not generates or inputs.get("attention_mask") is not None:
        return inputs
    ids: Tensor = inputs["input_ids"]
    pad = inferred_pad_id(model, inputs)
    if pad is None or not bool((ids == pad).any()):
        return inputs
    return inputs | {"attention_mask": ids.ne(pad).long()}


def _check_decoding(model: PreTrainedModel, inputs: Kwargs) -> None:
    """Raise a `ValueError` for assisted decoding, whose first look at a filled cache goes wrong."""
    for name in ASSISTED:
        if option_of(model, inputs, name) is not None:
            raise ValueError(
                f"{name} decodes wrongly from a cache that holds a prompt already, in transformers "
                "itself: leave it out, or pass the full chat and its images without the cache"
            )


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


def _new_text(known: CachedPrompt, inputs: dict[str, Any], part: Part, generates: bool) -> Part:
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
        rest[name] = x[..., -width:] if runs_along(known, name, x, width) else x
    after = known.and_then(part.ids, part.ids, part.columns, count)
    return replace(part, positions=positions, rest=rest, after=after)
