"""Serve a model over HTTP with vLLM, as OpenAI's API: `adafv serve`.

A job over a file is another command, see `adafv.cli.batch`.
"""

import errno
import json
import os
import socket
import sys
from dataclasses import replace
from typing import Annotated, Any

import typer

from adafv import embedded
from adafv.cli.extras import need
from adafv.cli.options import DEFAULT_KEEP, Keep, Method, Tokens, pruner_of, share_in
from adafv.cli.printing import quiet
from adafv.integrations.vllm.architecture import Architecture
from adafv.models.hub import check_available

CHECKS = "adafv.integrations.vllm.middleware.Checks"
VARIABLES = {
    # our own reader of images, which an address must not lead elsewhere
    "VLLM_MEDIA_CONNECTOR": "adafv",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    # malloc never gives Pillow's own 16 MiB back: up to 400 MB for each thread that reads
    "PILLOW_BLOCK_SIZE": "64m",
    # vLLM reports the machine and the class of the model otherwise
    "VLLM_NO_USAGE_STATS": "1",
    # no process that vLLM starts runs code that lies in the current folder
    "PYTHONSAFEPATH": "1",
}
IMAGES = {"backend": "pil"}  # prepared as everywhere in this library
# Flags of vLLM's that we set, or whose options are ours too.
OPTIONS = "--mm-processor-kwargs"
LIMIT = "--limit-mm-per-prompt"
MAX_IMAGES = 64
MAX_VIDEOS = 4
PORT = 8000
LAST_PORT = 65535
TRUST = "--trust-request-mm-kwargs"
TRUST_CODE = "--trust-remote-code"
DETAILS = "--enable-prompt-tokens-details"
MANAGER = "--ec-manager-config"
BUDGET = {
    "encoder_cache_manager_cls": "adafv.integrations.vllm.encoder_budget.EncoderBudget",
}
DRAIN = 30  # seconds that running requests have once the server is told to end


def serve(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL|VLLM-FLAG",
            help="Hub id or folder (default: the embedded model), "
            "then e.g. --port 8001 --dtype float32.",
            show_default=False,
        ),
    ] = None,
    method: Method = None,
    keep: Keep = None,
    tokens: Tokens = None,
    pin: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="first: an image keeps the selection of its turn. "
            "none: each turn of a chat selects anew.",
            show_default="first",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="M,…",
            help="Methods that requests may name beside the server's own, or all; "
            "default: those whose cost is linear.",
            show_default=False,
        ),
    ] = None,
    cache_mb: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Memory for encoded images, in MiB.", show_default="512"
        ),
    ] = None,
    image_cache_mb: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Memory for decoded and prepared images, half each, in MiB; 0 for none.",
            show_default="512",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="ID_OR_PATH", help="The same as MODEL.", show_default=False
        ),
    ] = None,
) -> None:
    """Serve a model over HTTP with vLLM, as OpenAI's API, from the kept visual tokens only.

    Flags that are not listed here go to vLLM, see `python -m
    vllm.entrypoints.launchers.api_server.entry --help=all`. No address is fetched for a request and
    no file read, unless --allowed-media-domains or --allowed-local-media-path allows it, and a
    prompt may hold 64 images and, where the model's videos are pruned, 4 videos, unless
    --limit-mm-per-prompt allows more. Told to end, it answers what runs for up to 30 seconds
    (--shutdown-timeout); /ready says whether it takes requests.

    A request may differ from the server:

    \b
      {"model": …, "messages": […], "mm_processor_kwargs": {"adafv_keep": 0.25}}
      adafv_keep    share of the visual tokens to keep; 1 keeps them all
      adafv_tokens  or their number
      adafv_method  see `adafv methods`; those that vLLM cannot do are refused
      adafv_pin     none or first
    """  # noqa: D301 (a backspace keeps click from filling the lines after it)
    flags = list(words or [])
    # the model may stand first, as with vLLM's own command
    if flags and not flags[0].startswith("-"):
        if model is not None:
            raise ValueError(f"MODEL is {flags[0]!r}, --model is {model!r}: pass one of them")
        model = flags.pop(0)
    if "--config" in map(_name, flags):
        raise ValueError(
            "--config is not read by adafv serve, whose own flags would go before the file's: pass "
            "its flags on the command line"
        )
    if model is not None:
        check_available(model)
    share = None if keep is None else share_in(keep)
    requested = {"method": method, "keep": share, "tokens": tokens, "pin": pin, "methods": methods}
    # our options and those of vLLM's flag, checked
    options = _options(requested, _given(flags), model)

    # refuse what could not work, before vLLM takes a minute to start
    need("vllm")
    if "adafv" not in os.environ.get("VLLM_PLUGINS", "adafv").split(","):
        raise ValueError(
            f"VLLM_PLUGINS={os.environ['VLLM_PLUGINS']!r} leaves adafv out: "
            "add it, or unset the variable"
        )
    _check_port(flags)
    # a model that the plugin does not prune would be served unpruned
    source, architecture = _checked(model, trusted=TRUST_CODE in map(_name, flags))
    for name, size in {"cache_mb": cache_mb, "image_cache_mb": image_cache_mb}.items():
        if size is not None:
            options[f"adafv_{name}"] = size

    images, *_ = architecture.modalities
    limits = {images: MAX_IMAGES, "video": MAX_VIDEOS if architecture.videos else 0}
    command = _command(source, flags, options, limits, embedded=model in (None, embedded.NAME))

    # the server takes over this process, and with it signals and standard output
    from adafv.integrations.vllm import FOLLOWS

    # what is set already is left as it is
    for variable, value in {**VARIABLES, **FOLLOWS}.items():
        os.environ.setdefault(variable, value)
    # the command line may hold keys, so it is not repeated
    typer.echo(f"adafv: {_announced(source, options)}", err=True)
    os.execv(sys.executable, command)


def _command(
    source: str,
    flags: list[str],
    options: dict[str, Any],
    limits: dict[str, int],
    *,
    embedded: bool,
) -> list[str]:
    """Return how vLLM's own server is started, with defaults of ours for flags that are not given.

    Args:
        source: folder or hub id of the model.
        flags: for vLLM.
        options: ours.
        limits: how many images and videos a prompt may hold, by vLLM's names.
        embedded: the model is the embedded one.
    """
    command = [sys.executable, "-P", "-m", "adafv.integrations.vllm.server"]
    command += ["--model", source, "--middleware", CHECKS]
    # a flag that is given goes before our default
    names = {_name(flag) for flag in flags}
    if embedded and "--served-model-name" not in names:
        command += ["--served-model-name", "embedded"]
    # a request may have options of the processor: ours alone, unless vLLM's flag says otherwise
    if not names & {TRUST, "--no-trust-request-mm-kwargs"}:
        command += [TRUST]
        options = {**options, "adafv_only": True}
    # no host is called so: nothing is fetched
    if "--allowed-media-domains" not in names:
        command += ["--allowed-media-domains", "(none)"]
    # requests that run may end, and usage says how many tokens of images were read
    if "--shutdown-timeout" not in names:
        command += ["--shutdown-timeout", str(DRAIN)]
    if not names & {DETAILS, "--no-enable-prompt-tokens-details"}:
        command += [DETAILS]
    # a burst of requests does not encode all of its images before anyone's first token
    if not any(name.startswith(MANAGER) for name in names):
        command += [MANAGER, json.dumps(BUDGET)]
    if not any(name.startswith(LIMIT) for name in names):
        command += [LIMIT, json.dumps(limits)]
    return [*command, *flags, OPTIONS, json.dumps({**IMAGES, **options})]


def _announced(source: str, options: dict[str, Any]) -> str:
    """Return in a sentence what a server prunes, and what its clients may change."""
    from adafv.integrations.vllm.options import CACHE_MB

    method = options.get("adafv_method", "the method of its folder")
    budget = "the budget of its folder"
    if "adafv_tokens" in options:
        budget = f"{options['adafv_tokens']} visual tokens an image"
    elif "adafv_keep" in options:
        budget = f"{100 * options['adafv_keep']:.4g} % of the visual tokens"
    cache = options.get("adafv_cache_mb", CACHE_MB)
    allowed = options.get("adafv_methods", "those of linear cost")
    return (
        f"serving {source} with {method} at {budget}, and {cache} MiB for encoded images; requests "
        f"may set adafv_keep, adafv_tokens, adafv_pin and adafv_method ({allowed})"
    )


def _check_port(flags: list[str]) -> None:
    """Raise a `ValueError` if a port is taken, before a model is loaded for it."""
    given = _values(flags)
    host = given.get("--host", "")
    port = given.get("--port", str(PORT))
    # a name or a number that is none is for vLLM to refuse
    if not port.isdecimal() or "--uds" in given:
        return
    if int(port) > LAST_PORT:
        raise ValueError(f"--port {port} is too large: pass 1 to {LAST_PORT}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ValueError(f"port {port} is taken: pass another --port") from None


def _values(flags: list[str]) -> dict[str, str]:
    """Return the flags that have a value, with the last one given."""
    found = {}
    for flag, following in zip(flags, [*flags[1:], ""], strict=False):
        name, equals, value = flag.partition("=")
        if flag.startswith("--"):
            found[_name(name)] = value if equals else following
    return found


def _name(flag: str) -> str:
    """Return a flag of vLLM as its parser reads it."""
    return flag.partition("=")[0].replace("_", "-")


def _given(flags: list[str]) -> dict[str, Any]:
    """Return the options of vLLM's own flag, which is taken out of `flags`."""
    found: dict[str, Any] = {}
    # from the end, so that taking one out leaves the indices of the others as they are
    for i in reversed(range(len(flags))):
        if not _name(flags[i]).startswith(OPTIONS):
            continue
        flag, equals, value = flags.pop(i).partition("=")
        # vLLM also takes --mm-processor-kwargs.name value
        if _name(flag) != OPTIONS:
            raise ValueError(
                f"{flag} sets one option: pass them all in {OPTIONS}, as a JSON object"
            )
        # the value stands behind =, or is the next word
        if not equals:
            value = flags.pop(i) if i < len(flags) else ""
        try:
            # of several flags the last one counts
            found = {**json.loads(value), **found}
        except (ValueError, TypeError):
            example = json.dumps({"adafv_keep": DEFAULT_KEEP})
            raise ValueError(
                f"{flag} {value!r} is no JSON object: pass e.g. {OPTIONS} '{example}'"
            ) from None
    return found


def _options(requested: dict[str, Any], given: dict[str, Any], model: str | None) -> dict[str, Any]:
    """Return all options for vLLM's own flag.

    What the model's folder says is checked with them and left to the server to read.

    Args:
        requested: options of this command; they go before the others.
        given: what vLLM's flag was given; that goes before what the folder says.
        model: hub id or folder.
    """
    from adafv.core.config import DEFAULT_METHOD
    from adafv.integrations.vllm.options import VLLMOptions
    from adafv.models.saved import read
    from adafv.utils.checks import one_of

    if requested["pin"] is not None:
        one_of("--pin", requested["pin"], "none", "first")
    if requested["method"] == "none":
        # refused with the same sentences as by the other commands
        keep = requested["keep"]
        pruner_of("none", None if keep is None else str(keep), requested["tokens"])
    carried = VLLMOptions.of_folder(read(model) if model else {})
    options = VLLMOptions.of_folder(requested).over(VLLMOptions.of_server(given))

    # a budget, where neither the command line nor the folder has one
    config = options.config
    if config.method == "none" and not config.budget:
        config = replace(config, keep=1.0)
    elif not (config.budget or carried.config.budget):
        config = replace(config, keep=DEFAULT_KEEP)
    if config.method is None and carried.config.method is None:
        config = replace(config, method=DEFAULT_METHOD)
    options = replace(options, config=config)
    both = options.over(carried)
    if both.pin is None and "question" not in both.config.options:
        options = replace(options, pin="first")

    # check them as the server would check a request
    options.over(carried).check()
    others = {}
    for name, value in given.items():
        if not name.startswith("adafv"):
            others[name] = value
    return {**others, **options.to_dict()}


def _checked(model: str | None, *, trusted: bool) -> tuple[str, Architecture]:
    """Return the folder or hub id of a model that the plugin prunes, and its architecture.

    Args:
        model: hub id or folder.
        trusted: vLLM is told to run the code of its repository.
    """
    quiet()
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

    from adafv.integrations.vllm import ARCHITECTURES
    from adafv.integrations.vllm.hub_format import check_format
    from adafv.integrations.vllm.left_out_architectures import in_brackets
    from adafv.models.load import from_files, source_of

    # the configuration alone, without weights
    source = source_of(model)
    written, _ = from_files(source, PreTrainedConfig.get_config_dict)
    first = next(iter(written.get("architectures") or ()), "")
    of_hub = ARCHITECTURES.get(first)
    # in a format of the hub's own: none of its code runs here
    if of_hub and of_hub.hub and written.get("model_type") not in CONFIG_MAPPING:
        if not trusted:
            raise ValueError(
                f"vLLM reads the configuration of {first} with the code of its repository: "
                f"pass {TRUST_CODE} if you trust it"
            )
        return source, of_hub
    config = from_files(source, AutoConfig.from_pretrained)
    names = config.architectures or [type(config).__name__]
    known = [ARCHITECTURES[name] for name in names if name in ARCHITECTURES]
    if not known:
        raise ValueError(
            f"{names[0]} is not pruned on vLLM (`adafv families --engine vllm` lists what is): "
            "answer files with `adafv batch --engine hf`, or serve it whole with `vllm serve`"
            f"{in_brackets(names[0])}"
        )
    check_format(config, known[0])
    return source, known[0]
