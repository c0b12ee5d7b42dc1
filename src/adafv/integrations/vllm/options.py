"""What a request asks for, and the ticket that says it to the model, one per image."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from adafv.core.layerwise import LayerPruner
from adafv.core.pruner import Pruner, one_of
from adafv.core.signals import SALIENCY
from adafv.core.spec import without_budget
from adafv.methods import METHODS, NoPruning, from_spec
from adafv.models.saved import BLOCK, DEFAULT_METHOD, read

__all__ = [
    "FIELD",
    "OPTIONS",
    "PruneConfig",
    "PruneSpec",
    "options_in",
    "over",
    "pruner_of",
    "settings",
    "with_budget",
]

FIELD = "adafv"
OPTIONS = ("adafv_keep", "adafv_tokens", "adafv_method", "adafv_pin")
SERVER = ("adafv_cache_mb", "adafv_only")
BUDGETS = ("adafv_keep", "adafv_tokens")


@dataclass(frozen=True)
class PruneConfig:
    """A method at a budget, for all images of a prompt.

    Attributes:
        method: as lists of methods write it, e.g. "adafv+" or "adafv:reserve=0.5"; see
            `adafv.methods.from_spec`.
        keep, tokens: the budget, one of the two; see `adafv.Pruner`.
        pin: "first": an image is asked about by the user's words of its turn, as in the library;
            the choice stays for the whole chat, and so does its prefix cache. "none": by those of
            later turns, too, so that each turn of a chat chooses anew.
    """

    method: str = DEFAULT_METHOD
    keep: float | None = None
    tokens: int | None = None
    pin: Literal["none", "first"] = "first"

    @classmethod
    def of(cls, request: Mapping[str, Any], server: Mapping[str, Any]) -> "PruneConfig | None":
        """What a request asks for, on a server with defaults of its own. None: nothing is asked
        for, nothing pruned.

        Raises:
            ValueError: an option that no method has, or a value that is none.
        """
        if wrong := [name for name in request if name.startswith("adafv") and name not in OPTIONS]:
            raise ValueError(f"{wrong[0]} is no option of a request: pass {', '.join(OPTIONS)}")
        asked, given = (
            with_budget({n: x[n] for n in OPTIONS if x.get(n) is not None})
            for x in (request, server)
        )
        options = {name.removeprefix("adafv_"): value for name, value in over(given, asked).items()}
        if not options:
            return None
        if options.get("method") == "none":
            options = {"keep": 1.0, **options}
        choice = cls(**options)
        choice.check()
        return choice

    def check(self) -> None:
        """Raise a `ValueError` if this cannot be done on vLLM."""
        one_of("adafv_pin", self.pin, "none", "first")
        if not isinstance(self.method, str):
            raise ValueError(
                f"adafv_method={self.method!r} is not text: pass the name of a method, e.g. 'adafv+'"
            )
        for name, value in (("adafv_keep", self.keep), ("adafv_tokens", self.tokens)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ValueError(
                    f"{name}={value!r} is not a number: pass adafv_keep=0.1 or adafv_tokens=144"
                )
        pruner = pruner_of(self.method, self.keep, self.tokens)
        if isinstance(pruner, LayerPruner):
            raise ValueError(
                f"{self.method} prunes between the layers of the language model, which vLLM doesn't do"
            )
        if lacking := pruner.signals - {SALIENCY}:
            kind = next(iter(lacking)).kind
            raise ValueError(
                f"{self.method} looks at {kind!r} of the vision tower, which is not read off on vLLM"
            )
        if not pruner.exact:
            raise ValueError(
                f"{self.method} doesn't keep to its budget, which vLLM has to know before: pass 'adafv'"
            )
        for name, known in (("positions", "packed"), ("newlines", "drop")):
            if getattr(pruner, name) != known:
                raise ValueError(
                    f"{name}={getattr(pruner, name)!r} is not done on vLLM: leave it out"
                )

    @property
    def dense(self) -> bool:
        """Nothing is to be pruned."""
        return self.keep == 1 or self.method == "none"


@dataclass(frozen=True)
class PruneSpec:
    """All that decides which visual tokens of an image stay, and so what it has in common with
    equal images.

    Attributes:
        image: hash of the image itself.
        method, keep, tokens: see `PruneConfig`.
        words: ids of the question, where the method looks at it.
    """

    image: str
    method: str = "none"
    keep: float | None = 1.0
    tokens: int | None = None
    words: tuple[int, ...] = ()

    @property
    def dense(self) -> bool:
        return self.method == "none"

    @property
    def hash(self) -> str:
        """Identity in vLLM's caches. An image that stays whole has its own, as without this
        plugin.
        """
        return self.image if self.dense else hashlib.sha256(self._bytes()).hexdigest()

    @property
    def pruner(self) -> Pruner:
        return pruner_of(self.method, self.keep, self.tokens)

    def tensor(self) -> Tensor:
        """(n,) uint8, to travel with the pixels."""
        return torch.frombuffer(bytearray(self._bytes()), dtype=torch.uint8)

    @classmethod
    def read(cls, tensor: Tensor) -> "PruneSpec":
        fields = json.loads(bytes(tensor.tolist()))
        return cls(**{**fields, "words": tuple(fields["words"])})

    def _bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@lru_cache(maxsize=1024)
def pruner_of(
    method: str, keep: float | None, tokens: int | None, skip: Iterable[int] = ()
) -> Pruner:
    """The method at its budget; `skip` are the ids that `skip=template` stands for."""
    return from_spec(method, lambda: skip, keep=keep, tokens=tokens)


def over(given: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Options that go before others, and one budget before another."""
    aside = BUDGETS if asked.keys() & {*BUDGETS} else ()
    return {**{name: value for name, value in given.items() if name not in aside}, **asked}


def options_in(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a pruner saved as JSON (see `adafv.models.saved`) is as options of a server or a
    request.

    Options of its method go into the method's name, as lists of methods write them. Names that no
    method has are left for others to refuse.

    Raises:
        ValueError: words that don't count (skip) as a list of ids.
    """
    rest = {
        name: value
        for name, value in saved.items()
        if name not in ("version", "strict") and value is not None
    }
    method = rest.pop("method", None)
    cls = METHODS.get(str(method or DEFAULT_METHOD).partition(":")[0], NoPruning)
    default = {f.name: f.default for f in fields(cls) if f"adafv_{f.name}" not in BUDGETS}
    own = {name: rest.pop(name) for name in default if name in rest}
    if own.pop("skip", ()):
        raise ValueError(
            "skip as a list of ids cannot be handed to vLLM: write the method as e.g. adafv:skip=template"
        )
    words = [
        f":{name}={_word(value)}" for name, value in sorted(own.items()) if value != default[name]
    ]
    if words:
        method = f"{method or DEFAULT_METHOD}{''.join(words)}"
    named = {} if method is None else {"method": method}
    return {f"adafv_{name}": value for name, value in {**rest, **named}.items()}


def with_budget(options: dict[str, Any]) -> dict[str, Any]:
    """Options whose method names no budget: that of "adafv:keep=0.2" stands beside it, as any
    other.
    """
    if not isinstance(options.get("adafv_method"), str):
        return options
    method, budget = without_budget(options["adafv_method"])
    for name, value in budget.items():
        if f"adafv_{name}" in options:
            raise ValueError(
                f"{name}={value} of {options['adafv_method']!r} is given already: leave one of them out"
            )
    return {
        **options,
        "adafv_method": method,
        **{f"adafv_{name}": value for name, value in budget.items()},
    }


def settings(model_config: Any) -> dict[str, Any]:
    """The server's own options, from `--mm-processor-kwargs` or what the model's folder says (see
    `adafv.models.saved`).

    They are moved to the configuration, where the model's processor does not stumble over them.

    Raises:
        ValueError: an unknown option, or a cache without a size.
    """
    config, multimodal = model_config.hf_config, model_config.get_multimodal_config()
    given = multimodal.mm_processor_kwargs or {}
    ours = {name: value for name, value in given.items() if name.startswith("adafv")}
    if ours:
        multimodal.mm_processor_kwargs = {
            name: value for name, value in given.items() if name not in ours
        } or None
    block = getattr(config, BLOCK, None)
    saved = options_in(read(model_config.model) if block is None else block)
    options = over(with_budget(saved), with_budget(ours))
    config.adafv = {name.removeprefix("adafv_"): value for name, value in options.items()}
    if wrong := [name for name in options if name not in (*OPTIONS, *SERVER)]:
        raise ValueError(
            f"{wrong[0]} is no option of a server: pass {', '.join((*OPTIONS, *SERVER))}"
        )
    size = options.get("adafv_cache_mb", 0)
    if isinstance(size, bool) or not isinstance(size, int | float) or size < 0:
        raise ValueError(f"adafv_cache_mb={size!r} is no size: pass megabytes, 0 for no cache")
    return options


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
