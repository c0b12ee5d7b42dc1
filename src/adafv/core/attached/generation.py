"""Generation from a shorter prompt, in the numbers of the caller's.

Lengths, stopping, streaming, logits and what comes out. Letters: R sequences that come out, L
columns of the caller's prompt, L' of the shorter one.
"""

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, MaxLengthCriteria, PreTrainedModel, StoppingCriteria
from transformers.generation import BaseStreamer

from adafv.core.inputs import option_of
from adafv.utils.checks import checked

__all__ = ["Caller", "merged"]

Adaptable = StoppingCriteria | LogitsProcessor
"""What looks at the ids so far."""
LENGTHS = ("max_length", "min_length")
"""Options that count the prompt."""


@checked
class Caller:
    """A caller of `generate`: its arguments, and the numbers that it wants to be told.

    Args:
        model: the model whose `generate` is called.
        inputs: the arguments of the call, with `input_ids` (B, L).

    Raises:
        ValueError: a `max_length` that the prompt alone reaches.
    """

    def __init__(self, model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        self.prompt: Tensor = inputs["input_ids"]  # (B, L)
        self.given = inputs.get("generation_config")
        self.model = model
        self.inputs = inputs
        self.width = 0  # of the shorter prompt

        longest = self._option("max_length")
        if self.prompt is None or longest is None or self._option("max_new_tokens") is not None:
            return
        if self.prompt.shape[1] >= longest:
            raise ValueError(
                f"Input length of input_ids is {self.prompt.shape[1]}, but `max_length` is set to "
                f"{longest}: increase `max_length` or, better, set `max_new_tokens`"
            )

    @property
    def beams(self) -> bool:
        """Return whether the rows of the cache are beams, not the sequences that come out."""
        number: int | None = self._option("num_beams")
        return (number or 1) > 1

    def translated(self, short: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments for a shorter prompt; what looks at ids sees the caller's."""
        self.width = short["input_ids"].shape[1]
        removed = self._removed
        if not removed:
            return short
        out = short | self._lengths(removed)

        for name in ("stopping_criteria", "logits_processor"):
            if out.get(name) is not None:
                out[name] = type(out[name])(self._shown(one, removed) for one in out[name])
        allowed = out.get("prefix_allowed_tokens_fn")
        if allowed is not None:
            out["prefix_allowed_tokens_fn"] = self._shown_row(allowed)
        if out.get("streamer") is not None:
            out["streamer"] = _Streamer(out["streamer"], self.prompt)
        return out

    def output(self, output: Any) -> Any:
        """Return what `generate` returned, with ids that begin with the caller's prompt."""
        if not self._removed:
            return output
        if isinstance(output, Tensor):
            return self._full(output)
        output.sequences = self._full(output.sequences)
        return output

    @property
    def _removed(self) -> int:
        """Return by how many columns the prompt was shortened."""
        return int(self.prompt.shape[1]) - self.width

    def _option(self, name: str) -> Any:
        """Return an option of generation: from the call, its configuration or the model's."""
        return option_of(self.model, self.inputs, name)

    def _lengths(self, removed: int) -> dict[str, Any]:
        """Return the lengths that count the caller's prompt in terms of the shorter one.

        Each is an argument or part of the configuration, as the caller passed it.
        """
        out: dict[str, Any] = {}
        config = copy(self.given)
        for name in LENGTHS:
            length = self._option(name)
            if not length:
                continue
            shorter = max(length - removed, 0)
            if self.inputs.get(name) is not None or config is None:
                out[name] = shorter
            else:
                setattr(config, name, shorter)
        if config is not None:
            out["generation_config"] = config
        return out

    def _shown(self, one: Adaptable, removed: int) -> "Adaptable | _Shown":
        """Return a stopping criterion or a logits processor that is shown the caller's ids."""
        if isinstance(one, MaxLengthCriteria):
            one = copy(one)
            one.max_length -= removed
            return one
        return _Shown(one, self._full)

    def _shown_row(self, allowed: Callable[[int, Tensor], Any]) -> Callable[[int, Tensor], Any]:
        """Return a function of a row and its ids that is shown the caller's."""
        # sampled sequences of one prompt are rows of their own, beams are counted by prompt
        each = 1 if self.beams else int(self._option("num_return_sequences") or 1)

        def of_caller(row: int, ids: Tensor) -> Any:
            return allowed(row, self._full(ids[None], row // each)[0])

        return of_caller

    def _full(self, ids: Tensor, row: int | None = None) -> Tensor:
        """Return ids (R, L + new) that begin with the caller's prompts instead of the shorter ones.

        Args:
            ids: (R, L' + new).
            row: of the prompt that they all follow. None: each follows its own.
        """
        prompt = self.prompt if row is None else self.prompt[row : row + 1]  # (B or 1, L)
        prompt = prompt.repeat_interleave(len(ids) // len(prompt), dim=0)  # (R, L)
        return torch.cat([prompt.to(ids), ids[:, self.width :]], dim=1)


class _Shown:
    """A stopping criterion or logits processor that is shown other ids."""

    def __init__(self, one: Callable[..., Any], full: Callable[[Tensor], Tensor]) -> None:
        self._one = one
        self._full = full

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        return self._one(self._full(input_ids), scores)

    def __getattr__(self, name: str) -> Any:
        if name == "_one":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._one, name)


@checked
def merged(merge: Callable[[Any, Any], Any], defaults: list[Any], customs: list[Any]) -> list[Any]:
    """Return a model's list of criteria or processors with the caller's in place of its own kind.

    Args:
        merge: the model's own way to put two lists together, which compares classes.
        defaults: what the model made of its configuration.
        customs: what the caller passed, some of it shown other ids.
    """
    plain = [one._one if isinstance(one, _Shown) else one for one in customs]
    shown = {id(one): custom for one, custom in zip(plain, customs, strict=True)}
    both: list[Any] = merge(defaults, type(customs)(plain))
    return type(both)([shown.get(id(one), one) for one in both])


class _Streamer:
    """A streamer that is first given the caller's prompt."""

    def __init__(self, streamer: BaseStreamer, prompt: Tensor) -> None:
        self._streamer = streamer
        self._prompt: Tensor | None = prompt

    def put(self, value: Tensor) -> None:
        """Hand on generated ids; instead of the first ones, the shorter prompt, the caller's."""
        prompt = self._prompt
        self._prompt = None
        self._streamer.put(value if prompt is None else prompt.cpu())

    def end(self) -> None:
        """Hand on that generation has ended."""
        self._streamer.end()
