"""A note on a cache: what it holds of the prompts that a caller passed.

A cache that a pruned prompt has filled has fewer columns than the caller counts. It carries a note
of what it holds, so that later calls, of a chat's next turn or of a decoding loop, go on in the
caller's own numbers. Letters: B rows, C columns as the caller counts, n columns of the cache, q
columns that are new, R sequences.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from adafv.core.inputs import placeholders
from adafv.utils.checks import checked

if TYPE_CHECKING:
    from adafv.core.resumed_decoder import KeptLayers

__all__ = [
    "UNKNOWN",
    "CachedPrompt",
    "filled",
    "holds_images",
    "is_placeholder",
    "length",
    "ones",
    "recall",
    "recall_text",
    "refuse_unknown",
    "remember",
    "remember_text",
    "steps",
    "text_alone",
]

NOTE = "_adafv"
"""Name of the attribute of a cache that holds its note."""
TEXT = "_adafv_text"
"""Name of that which holds the ids (B, n) of text alone, and the keys by which they are known."""
UNKNOWN = -1
"""In place of an id that the caller read elsewhere: it is no text that anyone asks with."""


@checked
@dataclass(frozen=True)
class CachedPrompt:
    """The prompts in a cache, in its own columns and in the caller's.

    Attributes:
        ids: (B, C) the caller's ids that were read.
        short: (B, n) the ids that the cache holds.
        columns: (B, n) which of the caller's columns each column of the cache is; -1 for padding of
            ours.
        following: (B, 1) the position of the next token. None: nothing was lost, the model counts
            it itself.
        counted: how it was counted: by "columns" (as `forward` does), by the "mask" (as `generate`
            does), or otherwise, "given".
        shift: the position of the next token as the caller counts, less that of the model; (B, 1)
            or a number.
        axes: of position ids (axes, B, L); 0 where they are (B, L).
        lost: a token was dropped.
        layers: what the layers have kept, where they have not all kept the same.
        keys: those of the first layer, by which an edited cache is known.
    """

    ids: Tensor
    short: Tensor
    columns: Tensor
    following: Tensor | None
    counted: Literal["columns", "mask", "given"]
    shift: Tensor | int
    axes: int
    lost: bool
    layers: "KeptLayers | None"
    keys: Tensor | None = None

    @property
    def padded(self) -> bool:
        """Return whether rows may have lost different numbers of tokens: some are padded."""
        return self.lost and len(self.ids) > 1

    def needs_positions(self, generates: bool) -> bool:
        """Return whether what follows has to be told its position.

        Else the model itself counts as it was counted before.

        Args:
            generates: it is read by `generate`, not by `forward`.
        """
        if self.following is None:
            return False
        if self.counted == "given":
            return True
        by_itself = "mask" if generates else "columns"
        return self.padded and self.counted != by_itself

    def cut(self, full: Tensor, fill: int = 0) -> Tensor:
        """Return the entries (B, n) of the cache's columns in a tensor (B, C or more)."""
        index = self.columns.clamp(min=0).expand(len(full), -1)  # (B, n)
        return full.gather(-1, index).where(self.columns >= 0, fill)

    def and_then(
        self, ids: Tensor, short: Tensor, columns: Tensor, count: Tensor | int
    ) -> "CachedPrompt":
        """Return the same once more is read.

        Args:
            ids: (B, q) of the caller. short: (B, q') those that are read.
            columns: (B, q') which of `ids` these are; -1 for padding.
            count: by how much positions advance.
        """
        # what is new follows the C columns that were read
        columns = torch.where(columns < 0, columns, columns + self.ids.shape[1])
        return replace(
            self,
            ids=torch.cat([self.ids, ids.to(self.ids)], dim=1),
            short=torch.cat([self.short, short.to(self.short)], dim=1),
            columns=torch.cat([self.columns, columns.to(self.columns)], dim=1),
            following=None if self.following is None else self.following + count,
        )

    def repeated(self, rows: int) -> "CachedPrompt":
        """Return the same for several sequences of each prompt, R in all."""
        copies = rows // len(self.ids)
        if copies == 1:
            return self
        changed: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name != "keys":
                changed[name] = value.repeat_interleave(copies, dim=0)  # (B, …) -> (R, …)
        return replace(self, **changed)


@checked
def remember(cache: Cache | None, after: CachedPrompt, generated: Tensor | None = None) -> None:
    """Write a note on a cache: what it holds now, or that nobody knows.

    Args:
        after: what it holds once the model has read a prompt.
        generated: (R, new) ids that were generated then; the cache may hold all but the last.
    """
    if cache is None:
        return
    # what was generated is read, too, but for the last token
    more = length(cache) - after.columns.shape[1]
    if generated is not None and more >= 0:
        read = generated[:, :more]  # (R, more)
        after = after.repeated(len(generated)).and_then(read, read, steps(read), more)
    known = length(cache) == after.columns.shape[1]
    setattr(cache, NOTE, replace(after, keys=_keys(cache)) if known else None)


@checked
def remember_text(
    cache: Cache | None, ids: Tensor, before: Tensor | None, starts_at: int = 0
) -> None:
    """Write on a cache which text it holds, if that is known.

    Args:
        ids: (B, q) that were read.
        before: (B, n) what the cache held before them. None: nobody knows.
        starts_at: how many columns it held.
    """
    if cache is None:
        return
    if before is not None and starts_at:
        ids = torch.cat([before.to(ids), ids], dim=1)  # (B, n + q)
    known = (before is not None or not starts_at) and length(cache) == ids.shape[1]
    setattr(cache, TEXT, (ids, _keys(cache)) if known else None)


@checked
def recall_text(cache: Cache | None) -> Tensor | None:
    """Return the ids (B, n) of the text that a cache holds, None where nobody knows."""
    if cache is None:
        return None
    ids, keys = getattr(cache, TEXT, None) or (None, None)
    if ids is None or length(cache) != ids.shape[1] or _keys(cache) is not keys:
        return None
    known: Tensor = ids
    return known


@checked
def filled(cache: Cache | None) -> bool:
    """Return whether there is a cache that holds anything."""
    return isinstance(cache, Cache) and length(cache) > 0


@checked
def recall(cache: Cache | None) -> CachedPrompt | None:
    """Return the note on a cache, None if it has none.

    Raises:
        ValueError: the cache is not as the last call left it.
    """
    if cache is None or not hasattr(cache, NOTE):
        return None
    # one that was reset begins anew
    if not filled(cache):
        delattr(cache, NOTE)
        return None
    note: CachedPrompt | None = getattr(cache, NOTE)
    edited = note is None or length(cache) != note.columns.shape[1]
    if note is None or edited or _keys(cache) is not note.keys:
        raise ValueError(
            "the cache is not as the pruned prompt left it (beams filled it, or it was cropped, "
            "reordered or used elsewhere since): pass it as the last call returned it, or a new "
            "one with the full chat and its images"
        )
    return note


@checked
def refuse_unknown(model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a cache without a note has to hold an image of the prompt.

    Args:
        inputs: what `generate` gets, with the full prompt.
    """
    ids = inputs.get("input_ids")  # (B, L)
    mask = inputs.get("attention_mask")
    if ids is None or (mask is not None and mask.shape != ids.shape):
        return
    cached = ids[:, : length(inputs["past_key_values"])]  # (B, n)
    if holds_images(model, cached):
        raise ValueError(
            "the cache holds images that this pruner has not read, so that nobody knows which of "
            "their tokens: pass a new one with the full chat and its images"
        )


@checked
def text_alone(model: PreTrainedModel, inputs: dict[str, Any], from_start: bool) -> CachedPrompt:
    """Return the note of a cache that has none: it holds text, read as the caller says.

    Args:
        from_start: the inputs hold the full chat, not only what is new.

    Raises:
        ValueError: it has to hold an image.
    """
    ids: Tensor = inputs["input_ids"]  # (B, L)
    cache = inputs["past_key_values"]
    count = length(cache)
    text = recall_text(cache)  # (B, n)
    if from_start:
        refuse_unknown(model, inputs)
        before = ids[:, :count]  # (B, n)
    elif text is not None and len(text) == len(ids):
        before = text.to(ids)
    else:
        before = ids.new_full((len(ids), count), UNKNOWN)
    return CachedPrompt(
        ids=before,
        short=before,
        columns=steps(before),
        following=None,
        counted="columns",
        shift=0,
        axes=0,
        lost=False,
        layers=None,
    )


@checked
def holds_images(model: PreTrainedModel, ids: Tensor) -> bool:
    """Return whether any of some ids is a placeholder of the model's."""
    return bool(is_placeholder(model, ids).any())


@checked
def is_placeholder(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Return (…) true where ids (…) stand for a visual token of an image or a video."""
    known = list(placeholders(model.config).values())
    return torch.isin(ids, torch.tensor(known, device=ids.device))


@checked
def length(cache: Cache) -> int:
    """Return how many columns a cache holds."""
    return int(cache.get_seq_length())


def _keys(cache: Cache) -> Tensor | None:
    """Return the keys of a cache's first layer that has any."""
    # an offloaded cache moves its keys by itself, so that they tell nothing
    if getattr(cache, "offloading", False):
        return None
    # that of an encoder and a decoder has none of its own
    for layer in getattr(cache, "layers", ()):
        keys: Tensor | None = getattr(layer, "keys", None)
        if keys is not None:
            return keys
    return None


@checked
def steps(ids: Tensor) -> Tensor:
    """Return 0, 1, … along each row of ids (B, L)."""
    # one row in memory, B to look at
    return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)


@checked
def ones(like: Tensor) -> Tensor:
    """Return a mask (B, L) of some ids (B, L) under which all of them are seen."""
    return torch.ones_like(like, dtype=torch.long)
