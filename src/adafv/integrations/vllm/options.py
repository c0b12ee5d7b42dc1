"""Options of a request or a server, and the spec that tells them to the model, one an image."""

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

FIELD = "adafv"  # under which a spec travels with its image's pixels
# Options that a request may have, and those that a server may have besides.
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
        pin: "first": an image is asked about by the user's text tokens of its turn, as in the
            library; the selection is the same for the complete chat, and so is its prefix cache.
            "none": by those of later turns, too, so that each turn of a chat selects anew.
    """

    method: str = DEFAULT_METHOD
    keep: float | None = None
    tokens: int | None = None
    pin: Literal["none", "first"] = "first"

    @classmethod
    def of(cls, request: Mapping[str, Any], server: Mapping[str, Any]) -> "PruneConfig | None":
        """Return what a request asks for, on a server with defaults of its own.

        Returns:
            None: nothing is asked for, nothing pruned.

        Raises:
            ValueError: an option that no method has, or a value that is not valid.
        """
        for name in request:
            if name.startswith("adafv") and name not in OPTIONS:
                raise ValueError(f"{name} is no option of a request: pass {', '.join(OPTIONS)}")

        # the request goes before the server; a method's own budget stands beside it
        requested = with_budget(_given(request))
        defaults = with_budget(_given(server))
        options = {}
        for name, value in over(defaults, requested).items():
            options[name.removeprefix("adafv_")] = value
        if not options:
            return None

        if options.get("method") == "none":
            options.setdefault("keep", 1.0)
        config = cls(**options)
        config.check()
        return config

    def check(self) -> None:
        """Raise a `ValueError` if this cannot be done on vLLM."""
        one_of("adafv_pin", self.pin, "none", "first")
        if not isinstance(self.method, str):
            raise ValueError(
                f"adafv_method={self.method!r} is not text: pass the name of a method, "
                "e.g. 'adafv+'"
            )
        for name, value in (("adafv_keep", self.keep), ("adafv_tokens", self.tokens)):
            # JSON's true is a number to Python
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not number:
                raise ValueError(
                    f"{name}={value!r} is not a number: pass adafv_keep=0.1 or adafv_tokens=144"
                )

        # the layers of the language model are vLLM's own, kernels and all
        pruner = pruner_of(self.method, self.keep, self.tokens)
        if isinstance(pruner, LayerPruner):
            raise ValueError(
                f"{self.method} prunes between the layers of the language model, "
                "which vLLM doesn't do"
            )
        # of the vision tower only saliency is observed
        lacking = pruner.signals - {SALIENCY}
        if lacking:
            kind = next(iter(lacking)).kind
            raise ValueError(
                f"{self.method} looks at {kind!r} of the vision tower, "
                "which is not read off on vLLM"
            )
        # a prompt has as many placeholders as tokens are kept, before any image is encoded
        if not pruner.exact:
            raise ValueError(
                f"{self.method} doesn't keep to its budget, which vLLM has to know before: "
                "pass 'adafv'"
            )
        for name, known in (("positions", "packed"), ("newlines", "drop")):
            if getattr(pruner, name) != known:
                raise ValueError(
                    f"{name}={getattr(pruner, name)!r} is not done on vLLM: leave it out"
                )

    @property
    def dense(self) -> bool:
        """Return whether nothing is to be pruned."""
        return self.keep == 1 or self.method == "none"


@dataclass(frozen=True)
class PruneSpec:
    """All that decides which visual tokens of an image are kept: equal specs, equal tokens.

    Attributes:
        image: hash of the image itself.
        method, keep, tokens: see `PruneConfig`.
        text_ids: the question's text tokens (M,), where the method looks at them.
    """

    image: str
    method: str = "none"
    keep: float | None = 1.0
    tokens: int | None = None
    text_ids: tuple[int, ...] = ()

    @property
    def dense(self) -> bool:
        """Return whether every token of the image is kept."""
        return self.method == "none"

    @property
    def hash(self) -> str:
        """Return the image's identity in vLLM's caches.

        An image of which everything is kept has its own, as without this plugin.
        """
        if self.dense:
            return self.image
        return hashlib.sha256(self._bytes()).hexdigest()

    @property
    def pruner(self) -> Pruner:
        """Return the method at its budget."""
        return pruner_of(self.method, self.keep, self.tokens)

    def tensor(self) -> Tensor:
        """Return the spec as bytes (n,) uint8, to travel with the pixels."""
        return torch.frombuffer(bytearray(self._bytes()), dtype=torch.uint8)

    @classmethod
    def read(cls, tensor: Tensor) -> "PruneSpec":
        """Return the spec that `tensor` wrote."""
        values = json.loads(bytes(tensor.tolist()))
        # JSON knows lists only, and a spec has to be hashable
        values["text_ids"] = tuple(values["text_ids"])
        return cls(**values)

    def _bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@lru_cache(maxsize=1024)
def pruner_of(
    method: str, keep: float | None, tokens: int | None, skip: Iterable[int] = ()
) -> Pruner:
    """Return the method at its budget; `skip` are the ids that `skip=template` stands for."""
    return from_spec(method, lambda: skip, keep=keep, tokens=tokens)


def over(defaults: Mapping[str, Any], requested: Mapping[str, Any]) -> dict[str, Any]:
    """Return defaults overridden by what is requested, and one budget by another."""
    options = dict(defaults)
    # a requested number of tokens goes before a default share, and the other way round
    if requested.keys() & {*BUDGETS}:
        for budget in BUDGETS:
            options.pop(budget, None)
    return options | dict(requested)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a request among others, without those that are None."""
    return {name: options[name] for name in OPTIONS if options.get(name) is not None}


def options_in(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pruner saved as JSON (see `adafv.models.saved`) as options of a server or request.

    Options of its method go into the method's name, as lists of methods write them. Names that no
    method has are left for others to refuse.

    Raises:
        ValueError: text tokens that don't count (skip) as a list of ids.
    """
    rest = {}
    for name, value in saved.items():
        if name not in ("version", "strict") and value is not None:
            rest[name] = value
    method = rest.pop("method", None)

    # the method's own options, and what they are where nothing is said
    cls = METHODS.get(str(method or DEFAULT_METHOD).partition(":")[0], NoPruning)
    own = {}
    default = {}
    for field in fields(cls):
        if f"adafv_{field.name}" in BUDGETS:
            continue
        default[field.name] = field.default
        if field.name in rest:
            own[field.name] = rest.pop(field.name)
    if own.pop("skip", ()):
        raise ValueError(
            "skip as a list of ids cannot be handed to vLLM: "
            "write the method as e.g. adafv:skip=template"
        )

    # write them behind the method's name: adafv:reserve=0.5
    for name, value in sorted(own.items()):
        if value != default[name]:
            method = f"{method or DEFAULT_METHOD}:{name}={_word(value)}"
    if method is not None:
        rest["method"] = method
    return {f"adafv_{name}": value for name, value in rest.items()}


def with_budget(options: dict[str, Any]) -> dict[str, Any]:
    """Move a budget out of a method's name: "adafv:keep=0.2" becomes "adafv" and a keep of 0.2."""
    if not isinstance(options.get("adafv_method"), str):
        return options
    method, budget = without_budget(options["adafv_method"])
    for name, value in budget.items():
        if f"adafv_{name}" in options:
            raise ValueError(
                f"{name}={value} of {options['adafv_method']!r} is given already: "
                "leave one of them out"
            )
    moved = {**options, "adafv_method": method}
    for name, value in budget.items():
        moved[f"adafv_{name}"] = value
    return moved


def settings(model_config: Any) -> dict[str, Any]:
    """Return the server's own options.

    They come from `--mm-processor-kwargs`, or from what the model's folder says (see
    `adafv.models.saved`), and are moved to the configuration, where the model's processor does not
    stumble over them.

    Raises:
        ValueError: an unknown option, or a cache without a size.
    """
    # take our options out of those of the processor
    config = model_config.hf_config
    multimodal = model_config.get_multimodal_config()
    ours = {}
    rest = {}
    for name, value in (multimodal.mm_processor_kwargs or {}).items():
        if name.startswith("adafv"):
            ours[name] = value
        else:
            rest[name] = value
    if ours:
        multimodal.mm_processor_kwargs = rest or None

    # what the folder says, first in config.json, where a former call has left the options too
    block = getattr(config, BLOCK, None)
    saved = options_in(read(model_config.model) if block is None else block)
    options = over(with_budget(saved), with_budget(ours))
    config.adafv = {name.removeprefix("adafv_"): value for name, value in options.items()}

    known = (*OPTIONS, *SERVER)
    for name in options:
        if name not in known:
            raise ValueError(f"{name} is no option of a server: pass {', '.join(known)}")
    size = options.get("adafv_cache_mb", 0)
    if isinstance(size, bool) or not isinstance(size, int | float) or size < 0:
        raise ValueError(f"adafv_cache_mb={size!r} is no size: pass megabytes, 0 for no cache")
    return options


def _word(value: object) -> str:
    """Return a value as lists of methods write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
