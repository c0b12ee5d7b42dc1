"""The pruner: encode, score, select, rebuild. Every invariant is kept here, once, whatever the method."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adafv.attach import attached
from adafv.capture import Signal
from adafv.encode import encode
from adafv.encoding import Encoding, VisualTokens
from adafv.layout import has_images
from adafv.rebuild import rebuild

__all__ = ["BudgetError", "Pruner", "ScoringPruner", "Selection"]


class BudgetError(ValueError):
    """A method cannot meet this budget on this image or model."""


@dataclass(frozen=True)
class Selection:
    """What stays of a batch of images.

    Attributes:
        kept: for each image the indices (K,) of the tokens that stay, ascending.
        features: for each image their features (K, D), where the method changes them; None where it doesn't.
        split: for each image (k_t, k_v), where the method mixes two lists: a (I, 2) tensor.
        read: for each image how many of its visual tokens a layer of the LLM reads, mean over layers, where the
            method drops them between layers; None: all that is kept.
    """

    kept: list[Tensor]
    features: list[Tensor] | None = None
    split: Tensor | None = None
    read: list[float] | None = None

    @property
    def tokens_read(self) -> list[float]:
        """For each image the visual tokens that the LLM reads."""
        return [float(len(kept)) for kept in self.kept] if self.read is None else self.read


@dataclass(kw_only=True)
class Pruner(ABC):
    """Keeps K of the N visual tokens of each image, before the language model reads them.

        pruner = AdaFV(keep=0.05)
        model.generate(**pruner(model, inputs))

        with pruner.attached(model):
            model.generate(**inputs)

    A method is a subclass with one method: `select`, or `score` if it is a ranking (see `ScoringPruner`). Its class
    says what it looks at: which `signals` of the vision tower, the question (`needs_text`; as the seed of what it
    `draws`); and whether it keeps `exact`ly K.

    Args:
        keep: share of each image's visual tokens that stays, 0 < keep <= 1; K = max(1, floor(keep · N + 0.5)).
        tokens: K itself; give one of the two. More than an image has keeps them all. N counts the patches of every
            crop, not the newline tokens.
        positions: "packed": kept tokens are numbered anew, as in the paper; "original": they keep the position ids
            of the full prompt, which grounding needs. Models with M-RoPE, whose position ids tell rows and columns,
            always keep them.
        newlines: what becomes of newline tokens of an image that is pruned. "drop" (the authors), "rows": those of
            rows that keep a token (reads the selection back from the device), "all".
        query: the question for every image, as text or as (M,) token ids. None: the text that follows each image, up
            to the end of the prompt, so that in a chat later turns count for earlier images too.
        tokenizer: for a query in text: that of the model, or its processor.
        skip: token ids that don't count as words of the question, e.g. `adafv.text.boilerplate(processor)`.
        strict: a prompt without an image is an error instead of passing through.

    Raises:
        ValueError: keep or tokens out of range, neither or both given, an unknown option.
    """

    keep: float | None = None
    tokens: int | None = None
    positions: Literal["packed", "original"] = "packed"
    newlines: Literal["drop", "rows", "all"] = "drop"
    query: str | Tensor | None = field(default=None, repr=False)
    tokenizer: Any = field(default=None, repr=False)
    skip: Iterable[int] = field(default=(), repr=False)
    strict: bool = False

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    signals: ClassVar[frozenset[Signal]] = frozenset()
    needs_text: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.tokens is None):
            given = "both are" if self.keep is not None else "neither is"
            raise ValueError(f"{given} given: pass either keep (a share, e.g. 0.1) or tokens (a number, e.g. 144)")
        for name, value in (("keep", self.keep), ("tokens", self.tokens)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
                raise ValueError(f"{name}={value!r} is not a number: pass keep=0.1, or tokens=144")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep} is not a share of the visual tokens: pass 0 < keep <= 1")
        if self.tokens is not None and (self.tokens < 1 or self.tokens != int(self.tokens)):
            raise ValueError(f"tokens={self.tokens} is not a number of visual tokens: pass an integer of 1 or more")
        one_of("positions", self.positions, "packed", "original")
        one_of("newlines", self.newlines, "drop", "rows", "all")
        self.skip = frozenset(self.skip)
        if isinstance(self.query, str):
            if self.tokenizer is None:
                raise ValueError(f"query={self.query!r} is text: pass tokenizer=processor too, or its token ids")
            tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)
            self.query = tokenizer(self.query, add_special_tokens=False, return_tensors="pt")["input_ids"][0]

    @property
    def spec(self) -> str:
        """The method as `adafv.methods.from_spec` reads it, without the budget: "adafv", or "adafv:reserve=0.5".

        Options in words and numbers alone; query, tokenizer and skip are not among them.
        """
        left_out = ("keep", "tokens", "query", "tokenizer", "skip")
        parts = [self.name]
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in left_out and value != option.default and isinstance(value, bool | int | float | str):
                parts.append(f"{option.name}={str(value).lower() if isinstance(value, bool) else value}")
        return ":".join(parts)

    @abstractmethod
    def select(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """What stays of each image: exactly `budget[i]` tokens of image i."""

    def budget(self, count: int) -> int:
        """K of an image of `count` visual tokens."""
        if self.tokens is not None:
            return min(int(self.tokens), count)
        assert self.keep is not None
        return max(1, math.floor(self.keep * count + 0.5))

    def __call__(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Encode the images of `inputs` and return shorter inputs for the same model.

        Args:
            model: a vision-language model of a family in `adafv.families`.
            inputs: what the model's processor returned.

        Returns:
            The same dict with fewer placeholders and the encoded images (`mm_encoder_outputs`) in place of the
            pixels, for `model(**…)` and `model.generate(**…)`. Without an image: the inputs as they are. A model with
            M-RoPE notes where decoding goes on (`rope_deltas`), so by hand decode one prompt before pruning the next.

        Raises:
            ValueError: an unknown family, or, with `strict`, a prompt without an image.
        """
        self.check(inputs)
        if not has_images(inputs):
            return dict(inputs)
        return self.prune(model, inputs, self.encode(model, inputs))

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Raise a `ValueError` if there must be an image among the inputs of a model and is none."""
        if self.strict and not has_images(inputs):
            raise ValueError("the prompt has no image to prune: pass one, or set strict=False to let it through")

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Encoding:
        """Run the vision tower, with the signals that this method needs."""
        return encode(
            model,
            inputs,
            signals=self.signals,
            text=self.needs_text,
            query=cast(Tensor | None, self.query),
            skip=frozenset(self.skip),
        )

    def prune(self, model: PreTrainedModel, inputs: Mapping[str, Any], encoding: Encoding) -> dict[str, Any]:
        """The shorter inputs, from images that are encoded already; several methods may share one encoding."""
        with torch.no_grad():
            selection = self.select(encoding.tokens, [self.budget(n) for n in encoding.tokens.counts])
        return self.rebuild(model, inputs, encoding, selection)

    def rebuild(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], encoding: Encoding, selection: Selection
    ) -> dict[str, Any]:
        """Put what is kept into a shorter prompt: ids, masks, labels, positions and features shrink together."""
        if selection.features is not None and not encoding.merges:
            raise ValueError(
                f"{self.name} merges tokens, but models of the family {model.config.model_type!r} take them before "
                "their projector: choose a method that keeps tokens as they are"
            )
        return rebuild(
            model,
            inputs,
            encoding,
            selection.kept,
            selection.features,
            positions=self.positions,
            newlines=self.newlines,
        )

    def inside(self, model: PreTrainedModel, encoding: Encoding) -> AbstractContextManager[None]:
        """To be held open while the model reads what `prune` returned: for methods that prune between its layers."""
        return nullcontext()

    @contextmanager
    def applied(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the shorter inputs of a prompt with an image; the model is to read them while this is open."""
        encoding = self.encode(model, inputs)
        short = self.prune(model, inputs, encoding)
        with self.inside(model, encoding):
            yield short

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the method, its options and its budget to `adafv.json` in a folder, usually that of a model.

        `query` and `tokenizer` are not saved: they belong to a prompt. `adafv ask`, `batch`, `serve` and `explain` take
        the budget of a model's folder where none is given.

        Returns:
            The path of the file.

        Raises:
            ValueError: the folder cannot be written, its config.json says already how to prune, the method is not in
                `adafv.METHODS`, or an option is neither a plain number nor text.
        """
        from adafv.saved import save

        return save(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The pruner that `save_pretrained` wrote: `Pruner.from_pretrained` of any method, `AdaFV.from_pretrained` an
        AdaFV. See `adafv.saved.from_pretrained`.

        Raises:
            ValueError: nothing there, a damaged file, or a pruner of another class.
        """
        from adafv.saved import from_pretrained

        pruner = from_pretrained(folder)
        if not isinstance(pruner, cls):
            raise ValueError(
                f"{str(folder)!r} carries {pruner.name!r}, which is no {cls.__name__}: call adafv.from_pretrained"
            )
        return pruner

    def attached(self, model: PreTrainedModel):
        """A context in which the model's own `generate` and `forward` prune whatever images they get.

        `generate` returns ids that begin with the caller's own prompt, and `max_length` counts that prompt;
        stopping criteria and logits processors are shown the shorter one. On leaving, after an exception too, the model
        is as it was.

        Raises:
            ValueError: another pruner is attached to this model.
        """
        return attached(self, model)


class ScoringPruner(Pruner):
    """A method that ranks the tokens: the K highest scores stay, the lower index first where they tie."""

    @abstractmethod
    def score(self, tokens: VisualTokens) -> Tensor:
        """(I, N) importance of every token; what it says of padding doesn't matter."""

    def select(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        scores = self.score(tokens).masked_fill(~tokens.mask, -torch.inf)
        return Selection(first(scores.sort(dim=1, descending=True, stable=True).indices, budget))


def first(order: Tensor, budget: list[int]) -> list[Tensor]:
    """The first `budget[i]` entries of each row of (I, N), ascending."""
    return [row[:k].sort().values for row, k in zip(order, budget, strict=True)]


def one_of(name: str, value: object, *known: str) -> None:
    """Raise a `ValueError` unless an option has one of its known values."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown: pass one of {', '.join(map(repr, known))}")
