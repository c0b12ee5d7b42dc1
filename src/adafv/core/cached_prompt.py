"""What a cache holds of the prompts that a caller passed.

A cache that a pruned prompt has filled has fewer columns than the caller counts. It carries a note
of what it holds, so that later calls, of a chat's next turn or of a decoding loop, go on in the
caller's own numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import Cache

from adafv.core.prompt import placeholders
from adafv.utils.checks import checked

if TYPE_CHECKING:
    from adafv.core.layerwise_decoder import KeptLayers

__all__ = [
    "CachedPrompt",
    "filled",
    "holds_images",
    "is_placeholder",
    "length",
    "ones",
    "recall",
    "refuse_unknown",
    "remember",
    "steps",
    "text_alone",
]

NOTE = "_adafv"


@checked
@dataclass(frozen=True)
class CachedPrompt:
    """What a cache holds, in its own columns and in the caller's.

    Attributes:
        ids: (B, C) the caller's ids that were read.
        short: (B, n) the ids that the cache holds.
        columns: (B, n) which of the caller's columns each column of the cache is; -1 for padding of
            ours.
        following: (B, 1) the position of the next token. None: nothing was lost, the model counts
            it itself.
        counted: how: by "columns" (as `forward` does), by the "mask" (as `generate` does), or
            otherwise, "given".
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
        """Rows may have lost different numbers of tokens, so that some are padded."""
        return self.lost and len(self.ids) > 1

    def needs_positions(self, generates: bool) -> bool:
        """Return whether what follows has to be told its position: the model itself would count
        otherwise.
        """
        if self.following is None or self.counted == "given":
            return self.following is not None
        return self.padded and self.counted != ("mask" if generates else "columns")

    def cut(self, whole: Tensor, fill: int = 0) -> Tensor:
        """Return (B, n) what the columns of the cache have in a tensor (B, C or more) of the
        caller's.
        """
        return whole.gather(-1, self.columns.clamp(min=0).expand(len(whole), -1)).where(
            self.columns >= 0, fill
        )

    def and_then(
        self, ids: Tensor, short: Tensor, columns: Tensor, count: Tensor | int
    ) -> "CachedPrompt":
        """Return the same once more is read.

        Args:
            ids: (B, q) of the caller. short: (B, q') those that are read.
            columns: (B, q') which of `ids` these are; -1 for padding.
            count: by how much positions advance.
        """
        columns = torch.where(columns < 0, columns, columns + self.ids.shape[1])
        return replace(
            self,
            ids=torch.cat([self.ids, ids.to(self.ids)], dim=1),
            short=torch.cat([self.short, short.to(self.short)], dim=1),
            columns=torch.cat([self.columns, columns.to(self.columns)], dim=1),
            following=None if self.following is None else self.following + count,
        )

    def repeated(self, rows: int) -> "CachedPrompt":
        """Return the same for several sequences (R) of each prompt."""
        if (copies := rows // len(self.ids)) == 1:
            return self
        changed: dict[str, Any] = {
            name: x.repeat_interleave(copies, dim=0)
            for name, x in vars(self).items()
            if isinstance(x, Tensor) and name != "keys"
        }
        return replace(self, **changed)


@checked
def remember(cache: Cache | None, after: CachedPrompt, generated: Tensor | None = None) -> None:
    """Note on a cache what it holds now, or that nobody knows.

    Args:
        after: what it holds once the model has read a prompt.
        generated: (R, new) ids that were generated then; the cache may hold all but the last.
    """
    if cache is None:
        return
    more = length(cache) - after.columns.shape[1]
    if generated is not None and more >= 0:
        read = generated[:, :more]
        after = after.repeated(len(generated)).and_then(read, read, steps(read), more)
    known = length(cache) == after.columns.shape[1]
    setattr(cache, NOTE, replace(after, keys=_keys(cache)) if known else None)


@checked
def filled(cache: Any) -> bool:
    """Return whether there is a cache that holds anything."""
    return isinstance(cache, Cache) and length(cache) > 0


@checked
def recall(cache: Any) -> CachedPrompt | None:
    """Return the note on a cache, None if it has none.

    Raises:
        ValueError: the cache is not as the last call left it.
    """
    if not filled(cache) or not hasattr(cache, NOTE):
        return None
    note = getattr(cache, NOTE)
    if note is None or length(cache) != note.columns.shape[1] or _keys(cache) is not note.keys:
        raise ValueError(
            "the cache is not as the pruned prompt left it (beams filled it, or it was cropped, reordered or used "
            "elsewhere since): pass it as the last call returned it, or a new one with the whole chat and its images"
        )
    return note


@checked
def refuse_unknown(model: Any, inputs: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a cache without a note has to hold an image of the prompt that
    `generate` gets.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None or (mask is not None and mask.shape != ids.shape):
        return
    if holds_images(model, ids[:, : length(inputs["past_key_values"])]):
        raise ValueError(
            "the cache holds images that this pruner has not read, so that nobody knows which of their tokens: pass a "
            "new one with the whole chat and its images"
        )


@checked
def text_alone(model: Any, inputs: dict[str, Any], from_start: bool) -> CachedPrompt:
    """Return what a cache without a note holds: text that was read as the caller says.

    Raises:
        ValueError: it has to hold an image.
    """
    ids, count = inputs["input_ids"], length(inputs["past_key_values"])
    refuse_unknown(model, inputs)
    before = ids[:, :count] if from_start else ids.new_zeros(len(ids), count)
    return CachedPrompt(
        before, before, steps(before), None, "columns", 0, 0, lost=False, layers=None
    )


@checked
def holds_images(model: Any, ids: Tensor) -> bool:
    """Return whether any of some ids is a placeholder of the model's."""
    return bool(is_placeholder(model, ids).any())


@checked
def is_placeholder(model: Any, ids: Tensor) -> Tensor:
    """Return where ids (…) stand for a visual token of an image or a video."""
    return torch.isin(ids, torch.tensor([*placeholders(model.config).values()], device=ids.device))


@checked
def length(cache: Cache) -> int:
    """Return how many columns a cache holds."""
    return int(cache.get_seq_length())


def _keys(cache: Cache) -> Tensor | None:
    """Return the keys of a cache's first layer that has any; None where they move on their own."""
    if getattr(cache, "offloading", False):
        return None
    found = (getattr(layer, "keys", None) for layer in cache.layers)
    return next((keys for keys in found if keys is not None), None)


@checked
def steps(ids: Tensor) -> Tensor:
    """Return 0, 1, … along each row of (B, L)."""
    return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)


@checked
def ones(like: Tensor) -> Tensor:
    """Return a mask of the shape of some ids under which all of them are seen."""
    return torch.ones_like(like, dtype=torch.long)
