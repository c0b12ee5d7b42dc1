"""Generation from a shorter prompt, in the numbers of the caller's: lengths, stopping, streaming
and what comes out.
"""

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor
from transformers import MaxLengthCriteria

from adafv.utils.checks import checked

__all__ = ["Caller", "places_of_logits"]

LENGTHS = ("max_length", "min_length")


@checked
class Caller:
    """What a caller of `generate` said, and wants to be told.

    Args:
        model: the model whose `generate` is called.
        inputs: the arguments of the call, with `input_ids` (B, L).

    Raises:
        ValueError: a `max_length` that the prompt alone reaches.
    """

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        self.prompt: Any = inputs["input_ids"]
        self.given = inputs.get("generation_config")
        self.default = getattr(model, "generation_config", None)
        self.inputs, self.width = inputs, 0
        longest = self._option("max_length")
        if self.prompt is None or longest is None or self._option("max_new_tokens") is not None:
            return
        if self.prompt.shape[1] >= longest:
            raise ValueError(
                f"Input length of input_ids is {self.prompt.shape[1]}, but `max_length` is set to {longest}: increase "
                "`max_length` or, better, set `max_new_tokens`"
            )

    @property
    def beams(self) -> bool:
        """Whether the rows of the cache are beams, which are not the sequences that come out."""
        return (self._option("num_beams") or 1) > 1

    def told(self, short: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments for a shorter prompt, in which everything that looks at ids sees the
        caller's.
        """
        self.width = short["input_ids"].shape[1]
        if not (removed := self._removed):
            return short
        out = short | self._lengths(removed)
        for name in ("stopping_criteria", "logits_processor"):
            if out.get(name) is not None:
                out[name] = type(out[name])(self._seeing(one, removed) for one in out[name])
        if (allowed := out.get("prefix_allowed_tokens_fn")) is not None:
            out["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(
                row, self._whole(ids[None], row)[0]
            )
        if out.get("streamer") is not None:
            out["streamer"] = _Streamer(out["streamer"], self.prompt)
        return out

    def output(self, output: Any) -> Any:
        """Return what `generate` returned, with ids that begin with the caller's prompt."""
        if not self._removed:
            return output
        if isinstance(output, Tensor):
            return self._whole(output)
        output.sequences = self._whole(output.sequences)
        return output

    @property
    def _removed(self) -> int:
        return self.prompt.shape[1] - self.width

    def _option(self, name: str) -> Any:
        """Return an option of generation: from the call, its configuration or the model's."""
        found = (
            self.inputs.get(name),
            getattr(self.given, name, None),
            getattr(self.default, name, None),
        )
        return next((value for value in found if value is not None), None)

    def _lengths(self, removed: int) -> dict[str, Any]:
        """Return the lengths that count the caller's prompt in terms of the shorter one, where the
        caller put them.
        """
        out, config = {}, copy(self.given)
        for name in LENGTHS:
            if not (length := self._option(name)):
                continue
            if self.inputs.get(name) is not None or config is None:
                out[name] = max(length - removed, 0)
            else:
                setattr(config, name, max(length - removed, 0))
        return out if config is None else out | {"generation_config": config}

    def _seeing(self, one: Any, removed: int) -> Any:
        """Return a stopping criterion or a logits processor that is shown the caller's ids."""
        if isinstance(one, MaxLengthCriteria):
            one = copy(one)
            one.max_length -= removed
            return one
        return _Seeing(one, self._whole)

    def _whole(self, ids: Tensor, row: int | None = None) -> Tensor:
        """Return (R, L + new) ids that begin with the caller's prompts instead of the shorter ones
        (R, L' + new).
        """
        prompt = self.prompt if row is None else self.prompt[row : row + 1]
        prompt = prompt.repeat_interleave(len(ids) // len(prompt), dim=0)
        return torch.cat([prompt.to(ids), ids[:, self.width :]], dim=1)


class _Seeing:
    """A stopping criterion or logits processor that is shown other ids."""

    def __init__(self, one: Callable[..., Any], whole: Callable[[Tensor], Tensor]) -> None:
        self._one, self._whole = one, whole

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        return self._one(self._whole(input_ids), scores)

    def __getattr__(self, name: str) -> Any:
        if name == "_one":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._one, name)


class _Streamer:
    """A streamer that is first given the caller's prompt."""

    def __init__(self, streamer: Any, prompt: Tensor) -> None:
        self._streamer = streamer
        self._prompt: Tensor | None = prompt

    def put(self, value: Tensor) -> None:
        prompt, self._prompt = self._prompt, None
        self._streamer.put(value if prompt is None else prompt.cpu())

    def end(self) -> None:
        self._streamer.end()


@checked
def places_of_logits(
    wanted: Any,
    columns: Tensor,
    last: int,
    start: int,
    width: int,
    ends_in_text: bool,
    layerwise: bool,
) -> Any:
    """Return `logits_to_keep` for a shorter prompt.

    Args:
        wanted: the caller's: how many of the last places, places (P,) or (B, P), or a mask (B, L).
        columns: (B, L') which of the caller's columns the shorter prompt has; negative for padding.
        last: the caller's last column that may have been dropped, -1 if none was.
        start: the caller's column that is place 0.
        width: L, how many columns the caller passed.
        ends_in_text: no row ends in padding, so that what comes after `last` is as far from the end
            as it was.
        layerwise: later layers read fewer than `columns`.

    Raises:
        ValueError: a place whose token was dropped, or of which that isn't known.
    """
    last -= start
    if isinstance(wanted, int):
        if last >= 0 and wanted > width - 1 - last:
            raise ValueError(
                f"logits_to_keep={wanted} asks for places of dropped visual tokens: the last {width - 1 - last} are "
                "text, pass that many at most, or 0 for all that are left"
            )
        return wanted
    if not isinstance(wanted, Tensor) or last < 0:
        return wanted
    wanted = wanted.to(columns.device)
    dropped = (
        "logits_to_keep asks for places of dropped visual tokens: ask for places of text alone"
    )
    if wanted.dtype != torch.bool:
        wanted = wanted.where(wanted >= 0, wanted + width)
        if wanted.dim() == 1 and ends_in_text and bool((wanted > last).all()):
            return wanted - width
    if layerwise:
        raise ValueError(
            "which visual tokens later layers read is not known in advance: let logits_to_keep ask for places after "
            f"the last image (from {last + 1} on) of prompts without padding at their end"
        )
    if wanted.dtype == torch.bool:
        kept = wanted.gather(1, (columns - start).clamp(min=0)) & (columns >= start)  # (B, L')
        if int(kept.sum()) != int(wanted.sum()):
            raise ValueError(dropped)
        return kept
    found = (columns - start)[:, None, :] == wanted[..., None]  # (B, P, L')
    if not bool(found.any(-1).all()):
        raise ValueError(dropped)
    index = found.int().argmax(-1)  # (B, P)
    return index[0] if len(index) == 1 else index
