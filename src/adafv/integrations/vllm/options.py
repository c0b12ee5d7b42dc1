"""Options of a request or a server."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Self

from adafv.core.config import PruneConfig, fits
from adafv.core.layerwise import LayerPruner
from adafv.core.prompt import Question
from adafv.core.pruner import Pruner
from adafv.core.signals import SALIENCY
from adafv.methods import METHODS, VIDEO_METHODS, from_spec, without_defaults
from adafv.models.saved import BLOCK, SERVER, read
from adafv.utils.checks import check_size, one_of

__all__ = [
    "ALL",
    "VLLMOptions",
    "check_restricted",
    "pruner_of",
    "separate",
    "settings",
]

PREFIX = "adafv_"
ALL = "all"  # of `methods`: who starts the engine is who asks it
CACHE_MB = 512  # of encoded images, where the server says nothing
IMAGE_CACHE_MB = 512  # of decoded and prepared ones
OF_PRUNER = ("method", "keep", "tokens")
SIZES = ("cache_mb", "image_cache_mb")
OF_REQUEST = (*OF_PRUNER, "pin")
OF_ENGINE = ("methods", *SIZES, "only")
OF_SERVER = (*OF_REQUEST, *OF_ENGINE)


@dataclass(frozen=True)
class VLLMOptions:
    """A configuration, and what a request or a server on vLLM may say besides.

    Attributes:
        config: method, options and budget, for all images of a prompt.
        pin: "first": an image is asked about by the user's text tokens of its turn, as in the
            library; the selection is the same for the complete chat, and so is its prefix cache.
            "none": by those of later turns, too, so that each turn of a chat selects anew. None:
            as the method's `question` says.
        methods: of a server, the methods that requests may name beside its own, comma-separated;
            "all": any, at any cost; None: those whose cost is linear.
        cache_mb, image_cache_mb: of a server, the memory for encoded images, and for decoded and
            prepared ones.
        only: of a server, whether requests may have no other options of the processor.
    """

    config: PruneConfig = field(default_factory=PruneConfig)
    pin: Literal["none", "first"] | None = None
    methods: str | None = None
    cache_mb: float | None = None
    image_cache_mb: float | None = None
    only: bool | None = None

    @classmethod
    def of_request(cls, options: Mapping[str, Any]) -> Self:
        """Read the options that begin with `adafv_`, those of a request.

        Raises:
            ValueError: an unknown one, or a value that is not valid.
        """
        return cls._read(options, OF_REQUEST, "a request")

    @classmethod
    def of_server(cls, options: Mapping[str, Any]) -> Self:
        """Do as `of_request`, for the options of a server."""
        return cls._read(options, OF_SERVER, "a server")

    @classmethod
    def of_pruner(cls, pruner: Pruner) -> Self:
        """Return the options that ask for what a pruner does.

        Raises:
            ValueError: a query of its own.
        """
        if pruner.query is not None:
            raise ValueError("query of a pruner cannot be handed to vLLM")
        return cls(_without_ids(pruner.config))

    @classmethod
    def of_folder(cls, saved: Mapping[str, Any], prefix: str = "") -> Self:
        """Read what a model's folder says, see `adafv.models.saved`.

        Args:
            prefix: stands before the names that errors call.

        Raises:
            ValueError: text tokens that don't count (skip) as a list of ids, or a cache's size; a
                list of methods that holds another name; what requests may have (only) as another
                value than true and false.
        """
        for name in SIZES:
            size = saved.get(name, 0)
            check_size(f"{PREFIX}{name}", size)
            if not (fits(size, float) and size >= 0):
                raise ValueError(
                    f"{PREFIX}{name}={size!r} is no size: pass megabytes, 0 for no cache"
                )

        _check_methods(saved.get("methods"))
        only = saved.get("only")
        if not isinstance(only, bool | None):
            raise ValueError(f"{PREFIX}only={only!r} is no truth value: pass true or false")

        own = {}
        config = {}
        for name, value in saved.items():
            if name in SERVER:
                own[name] = value
            elif name != "version":
                config[name] = value
        return cls(_without_ids(PruneConfig.from_dict(config, prefix)), **own)

    @classmethod
    def _read(cls, options: Mapping[str, Any], known: tuple[str, ...], who: str) -> Self:
        """Read the options that begin with `adafv_`, and refuse those that `who` cannot have."""
        found = {}
        for name, value in options.items():
            if not name.startswith("adafv"):
                continue
            if name.removeprefix(PREFIX) not in known:
                names = ", ".join(f"{PREFIX}{one}" for one in known)
                raise ValueError(f"{name} is no option of {who}: pass {names}")
            if value is not None:
                found[name.removeprefix(PREFIX)] = value
        return cls.of_folder(found, PREFIX)

    def over(self, defaults: "VLLMOptions") -> Self:
        """Return what is given here, and of what is not the defaults."""
        others = {}
        for name in ("pin", *OF_ENGINE):
            others[name] = getattr(defaults if getattr(self, name) is None else self, name)
        return replace(self, config=self.config.over(defaults.config), **others)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as `--mm-processor-kwargs` and requests have them."""
        method = None if self.config.method is None else self.config.spec
        values = {"method": method, **self.config.budget, "pin": self.pin}
        values |= {name: getattr(self, name) for name in OF_ENGINE}
        options = {}
        for name, value in values.items():
            if value is not None:
                options[f"{PREFIX}{name}"] = value
        return options

    def request(self, server: "VLLMOptions") -> "VLLMOptions | None":
        """Return what is to be done for a request, on a server with options of its own.

        Returns:
            None: nothing is asked for, nothing pruned.

        Raises:
            ValueError: it cannot be done on vLLM.
        """
        own = self.config
        # the method that keeps everything needs no budget, and takes none over
        if own.method == "none" and not own.budget:
            own = replace(own, keep=1.0)
        options = replace(self, config=own).over(server)
        config = options.config
        if config.method is None and not config.budget and options.pin is None:
            return None
        if config.method == "none" and not config.budget:
            options = replace(options, config=replace(config, keep=1.0))
        options.check()
        # what can be done at all may still be more than this server does
        if own.method is not None:
            _check_allowed(own.method, server)
        return options

    def check(self) -> None:
        """Raise a `ValueError` if this cannot be done on vLLM."""
        if self.pin is not None:
            one_of("adafv_pin", self.pin, "none", "first")

        # the layers of the language model are vLLM's own, kernels and all
        method = self.config.spec
        pruner = pruner_of(method, self.config.keep, self.config.tokens)
        if isinstance(pruner, LayerPruner):
            raise ValueError(
                f"{method} prunes between the layers of the language model, which vLLM doesn't do"
            )
        if method.partition(":")[0] in VIDEO_METHODS:
            raise ValueError(
                f"{method} compares the frames of a video, which is not done on vLLM: pass a "
                "method for images, too, such as adafv"
            )
        # of the vision tower only saliency is observed
        lacking = pruner.signals - {SALIENCY}
        if lacking:
            kind = next(iter(lacking)).kind
            raise ValueError(
                f"{method} needs {kind!r} of the vision tower, and on vLLM only the attention that "
                "saliency is made of is observed: pass another method, such as adafv"
            )
        # a prompt has as many placeholders as tokens are kept, before any image is encoded
        if not pruner.exact:
            raise ValueError(
                f"{method} doesn't keep to its budget, which vLLM has to know before: pass 'adafv'"
            )
        plain = {"positions": "packed", "newlines": "drop", "repeats": "count"}
        for name, known in plain.items():
            found = getattr(pruner, name, known)
            if found != known:
                raise ValueError(f"{name}={found!r} is not done on vLLM: leave it out")
        if self.pin is not None and "question" in self.config.options:
            raise ValueError(
                f"adafv_pin={self.pin!r} says what question={pruner.question!r} of {method} says: "
                "leave one of them out"
            )

    @property
    def prunes(self) -> bool:
        """Return whether a server prunes where a request says nothing, or is made to."""
        return replace(self, methods=None, image_cache_mb=None) != VLLMOptions()

    @property
    def question(self) -> Question:
        """Return which text an image is asked about, see `adafv.core.settings.Settings`."""
        if self.pin is None:
            question: Question = self.config.options.get("question", "turn")
            return question
        return "turn" if self.pin == "first" else "chat"


def _names_in(methods: str) -> list[str]:
    """Return the entries of a comma-separated list."""
    return [name.strip() for name in methods.split(",") if name.strip()]


def _check_methods(methods: Any) -> None:
    """Raise a `ValueError` unless a server's methods are a list of names, in text."""
    if methods is None or methods == ALL:
        return
    names = _names_in(methods) if isinstance(methods, str) else []
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ValueError(
            f"adafv_methods={methods!r} is no list of methods: pass names of `adafv methods`, "
            f"e.g. 'adafv,scope', or {ALL!r}"
        )


def _is_linear(name: str) -> bool:
    """Return whether vLLM can do a method, in a time that grows with the tokens alone."""
    pruner = pruner_of(name, 1.0, None)
    in_time = not pruner.layerwise and not pruner.stepwise and not pruner.cubic
    return in_time and pruner.exact and pruner.signals <= {SALIENCY}


def _check_allowed(method: str, server: VLLMOptions) -> None:
    """Raise a `ValueError` if a request may not name a method on a server."""
    if server.methods == ALL:
        return
    allowed = [name for name in METHODS if _is_linear(name)]
    if server.methods is not None:
        allowed = _names_in(server.methods)
    # the server's own in any case; an unknown name is refused by name
    if method in METHODS and method not in (*allowed, server.config.method):
        raise ValueError(
            f"adafv_method={method!r} is not allowed on this server, whose other requests would "
            f"wait for it: pass one of {', '.join(allowed)}, or start the server with --methods"
        )


def _without_ids(config: PruneConfig) -> PruneConfig:
    """Return a configuration that can be written as text.

    Raises:
        ValueError: it has token ids (skip).
    """
    options = dict(without_defaults(config).options)
    # a prompt without an image is no error on a server
    options.pop("strict", None)
    # nor is an empty list
    if not options.get("skip", True):
        del options["skip"]
    if isinstance(options.get("skip"), list):
        raise ValueError(
            "skip as a list of ids cannot be handed to vLLM: "
            "write the method as e.g. adafv:skip=template"
        )
    return replace(config, options=options)


def check_restricted(options: Mapping[str, Any], own: Any) -> None:
    """Raise a `ValueError` if a request sets options of a method: on some servers nobody may.

    Args:
        options: of the request.
        own: the server's method with its options, or None.
    """
    method = options.get("adafv_method")
    if isinstance(method, str) and ":" in method and _spelled(method) != _spelled(own):
        raise ValueError(
            f"the options of adafv_method={method!r} are for the server to set: "
            f"name the method alone, or start the server with --method {method}"
        )


def _spelled(method: Any) -> Any:
    """Return a method in the one way in which it is compared: without options at their defaults."""
    try:
        return without_defaults(PruneConfig.from_spec(method)).spec
    # what cannot be read equals itself alone
    except (ValueError, AttributeError, TypeError):
        return method


@lru_cache(maxsize=1024)
def pruner_of(
    method: str, keep: float | None, tokens: int | None, skip: Iterable[int] = ()
) -> Pruner:
    """Return the method at its budget; `skip` are the ids that `skip=template` stands for."""
    return from_spec(method, lambda: skip, keep=keep, tokens=tokens)


def separate(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return our options and the others."""
    ours = {name: value for name, value in kwargs.items() if name.startswith("adafv")}
    rest = {name: value for name, value in kwargs.items() if name not in ours}
    return ours, rest


def settings(model_config: Any) -> VLLMOptions:
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
    ours, rest = separate(multimodal.mm_processor_kwargs or {})
    if ours:
        multimodal.mm_processor_kwargs = rest or None

    # what the folder says, first in config.json, where a former call has left the options too
    block = getattr(config, BLOCK, None)
    saved = VLLMOptions.of_folder(read(model_config.model) if block is None else block)
    options = VLLMOptions.of_server(ours).over(saved)
    config.adafv = {}
    for name, value in options.to_dict().items():
        config.adafv[name.removeprefix(PREFIX)] = value
    return options
