"""Refuse requests that vLLM would misread, in one sentence and before it does.

`adafv serve` passes `--middleware adafv.integrations.vllm.middleware.Checks`.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adafv.core.inputs import placeholders
from adafv.integrations.vllm.api_keys import lacks_key
from adafv.integrations.vllm.architectures import ARCHITECTURES
from adafv.integrations.vllm.counters import COUNTERS, PLACED, REFUSED
from adafv.integrations.vllm.hub_format import as_transformers
from adafv.integrations.vllm.media import PIXELS, REMARKS
from adafv.integrations.vllm.options import check_restricted
from adafv.integrations.vllm.request_text import (
    asks,
    last_turn,
    parts_in,
    spell_out,
    strings_in,
    texts_in,
    tokens_of,
)

__all__ = ["Checks", "check"]

# Keys, or types, of parts of a message that hold an image, or anything else to look at.
IMAGES = frozenset({"image_url", "input_image", "image", "image_pil", "image_embeds"})
VIDEOS = frozenset({"video_url", "video_embeds"})
MEDIA = IMAGES | VIDEOS
ADDRESSES = {"image_url": "image", "input_image": "image", "video_url": "video"}
# Endpoints for which vLLM leaves mm_processor_kwargs out.
WITHOUT_OPTIONS = ("/v1/messages", "/cohere")
UNMET = (
    "the engine gave this request up: the model's vocabulary may not be able to write what "
    "response_format or structured_outputs ask for; the server's log has the reason"
)
UNKNOWN = "this server asks for a key: send it in a header, Authorization: Bearer KEY"
LONGEST_OPTION = 200  # characters of name and value
LAST_WORDS = 3.0  # seconds to send what the engine said before it ended
EXAMPLE = '{"adafv_keep": 0.25}'
# Headers of a response: of each image and each video N, and K.
SEEN = b"adafv-visual-tokens"
KEPT = b"adafv-kept-tokens"
WARNING = b"adafv-warning"


class Checks:
    """ASGI middleware that checks a request when its endpoint reads it.

    That is behind the server's authentication, which every path has where the server has a key, but
    for those that say whether it is well. Options that would have no effect are refused,
    whether vLLM leaves them out or has no image to apply them to; so are empty questions. What
    stands for an image in a prompt is a word where somebody types it.

    Headers of the response say how many visual tokens each image has, how many were read, and what
    the answer suffers from.

    `/ready` says whether the server takes requests; from the signal to end on it does not, and new
    ones get 503. So does what the engine has not answered when it ends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.ending = False
        self.running: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its body checked."""
        if scope["type"] == "lifespan":
            client = scope["app"].state.engine_client
            self._watch(client)
            _carry_context(client.renderer._mm_executor)
        if scope["type"] == "http" and (answer := self._own_answer(scope)) is not None:
            await answer(scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self.ending:
            COUNTERS.count_refusal("shutdown")
            await _unavailable("the server is shutting down: ask another")(scope, receive, send)
            return
        await self._until_the_end(scope, receive, send)

    async def _until_the_end(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or give it up once the engine has ended."""
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        try:
            await self._answer(scope, receive, send_noted)
        except asyncio.CancelledError:
            # half an answer ends with its connection
            if not self.ending or started:
                raise
            COUNTERS.count_refusal("shutdown")
            await _unavailable("the server has shut down: ask another")(scope, receive, send)
        finally:
            self.running.discard(task)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its body checked, and its response with counts."""
        # the images of this request count their pixels together
        PIXELS.set([])
        REFUSED.set([])
        placed: list[tuple[int, int]] = []
        PLACED.set(placed)
        remarks: list[str] = []
        REMARKS.set(remarks)
        read = False
        constrained = False

        async def receive_checked() -> Message:
            # the endpoint asks for the body first, and later whether the client is still there
            nonlocal read, constrained
            if read:
                return await receive()
            read = True

            # collect the complete body
            message = await receive()
            parts = [message.get("body", b"")]
            while message.get("more_body"):
                message = await receive()
                parts.append(message.get("body", b""))
            if message["type"] != "http.request":
                return message

            # check it, and pass it on in one piece
            request, body = _checked(b"".join(parts), scope)
            constrained = _is_constrained(request)
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_checked(message: Message) -> None:
            # vLLM ends a request with an error where no token of the vocabulary meets its grammar
            given_up = message.get("status") == 500 and constrained
            if given_up and not scope["app"].state.engine_client.errored:
                raise _GivenUpError
            await send(_with_headers(message, placed, remarks))

        try:
            await self.app(scope, receive_checked, send_checked)
        except _GivenUpError:
            COUNTERS.count_refusal("grammar")
            response = _error(400, "BadRequestError", UNMET)
            await response(scope, receive, send)

    def _watch(self, client: Any) -> None:
        """Note when the engine is told to end, which vLLM does at a signal.

        What it has not answered when it has ended is given up: vLLM's server would wait for it.
        """
        shutdown = client.shutdown
        loop = asyncio.get_running_loop()

        def give_up(task: asyncio.Task[Any]) -> None:
            # what the engine has said last is still to be sent
            loop.call_later(LAST_WORDS, task.cancel)

        def noted(*args: Any, **options: Any) -> None:
            self.ending = True
            shutdown(*args, **options)
            for task in tuple(self.running):
                loop.call_soon_threadsafe(give_up, task)

        client.shutdown = noted

    def _own_answer(self, scope: Scope) -> ASGIApp | None:
        """Return the response to a request that vLLM is not to see; None: it is to."""
        if lacks_key(scope):
            return _error(401, "Unauthorized", UNKNOWN)
        return self._ready(scope) if scope["path"] == "/ready" else None

    def _ready(self, scope: Scope) -> ASGIApp:
        """Return the response to who asks whether requests are taken."""
        if self.ending:
            return _unavailable("the server is shutting down")
        if scope["app"].state.engine_client.errored:
            return _unavailable("the engine has ended")
        return JSONResponse({"ready": True})


def _with_headers(message: Message, placed: list[tuple[int, int]], remarks: list[str]) -> Message:
    """Return the start of a response with headers of ours.

    Args:
        placed: N and K of each image and video.
        remarks: on what the request shows.
    """
    if message["type"] != "http.response.start":
        return message
    headers = [*message.get("headers", ())]
    if placed:
        for name, counts in zip((SEEN, KEPT), zip(*placed, strict=True), strict=True):
            headers.append((name, ", ".join(map(str, counts)).encode()))
    if remarks:
        # headers are ASCII
        headers.append((WARNING, "; ".join(remarks).replace("×", "x").encode()))
    return {**message, "headers": headers}


def _carry_context(executor: Executor) -> None:
    """Let what runs in an executor know of which request it is: of its context variables."""
    submit = executor.submit

    def submit_in_context(call: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        return submit(copy_context().run, call, *args, **options)

    executor.submit = submit_in_context  # type: ignore[method-assign]


class _GivenUpError(Exception):
    pass


def _unavailable(message: str) -> ASGIApp:
    return _error(503, "ServiceUnavailable", message, {"Retry-After": "1"})


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> ASGIApp:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error}, status, headers)


def _checked(body: bytes, scope: Scope) -> tuple[dict[str, Any], bytes]:
    """Return a request, and its body with typed placeholders spelled out.

    Where it is not our business the request is empty, and the body as it is.

    Raises:
        HTTPException: a request in JSON asks for what would not be done.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        # broken JSON is for vLLM to refuse; a form with a file is none of our business
        return {}, body
    if not isinstance(request, dict):
        return {}, body
    state = scope["app"].state
    try:
        with COUNTERS.refusals("request"):
            check(request, scope["path"], state.args.mm_processor_kwargs or {})
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    if spell_out(request, _placeholders(state)):
        body = json.dumps(request).encode()
    return request, body


def _is_constrained(request: Mapping[str, Any]) -> bool:
    """Return whether a request says what its answer has to look like."""
    form = request.get("response_format")
    plain = form is None or (isinstance(form, dict) and form.get("type") == "text")
    return not plain or bool(request.get("structured_outputs"))


def _placeholders(state: Any) -> list[str]:
    """Return what stands for an image or a video in the prompts of a server's model."""
    processor = state.engine_client.renderer.mm_processor
    if processor is not None:
        typed: list[str] = processor.questions.typed
        return typed
    # a server of text alone has no processor of pictures
    config = state.vllm_config.model_config.hf_config
    tokenizer = state.engine_client.get_tokenizer()
    known = ARCHITECTURES.get(next(iter(config.architectures or ()), ""))
    if known is not None:
        config = as_transformers(config, known, tokenizer)
    return tokens_of(tokenizer, list(placeholders(config).values()))


def check(request: Mapping[str, Any], path: str, server: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a request asks for what would not be done.

    Args:
        request: the JSON object.
        path: of the endpoint.
        server: the options that the server was started with.
    """
    options = _options(request)
    if server.get("adafv_only"):
        _check_restricted(request, options, server)

    # options that would have no effect
    messages = [request.get("messages"), request.get("input")]
    parts = list(parts_in(messages))
    ours = [name for name in options if name.startswith("adafv")]
    if ours:
        if any(part in path for part in WITHOUT_OPTIONS):
            raise ValueError(
                f"{path} has no {ours[0]}: ask /v1/chat/completions, "
                "or start the server with --keep"
            )
        # an earlier response may have had the image
        seen = any(_holds(part, MEDIA) for part in parts)
        if not seen and not request.get("previous_response_id"):
            raise ValueError(f"{ours[0]} without an image: there is nothing to prune, leave it out")

    # images and videos without an address, and questions without text
    shown = [part for part in parts if _holds(part, MEDIA)]
    for part in shown:
        _check_address(part)
    turn = last_turn(request)
    if shown and any(map(asks, turn)) and not "".join(texts_in(turn)).strip():
        kind = "image" if any(_holds(part, IMAGES) for part in shown) else "video"
        raise ValueError(f"the question is empty: ask something about the {kind}")

    # JSON may hold what UTF-8 cannot, and the tokenizer would fail in the engine
    try:
        for text in strings_in(request):
            text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            "the text holds half a surrogate pair, which is no character: encode it again"
        ) from None


def _options(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a request's mm_processor_kwargs.

    Raises:
        ValueError: they are not an object, one is too long, or stands beside them.
    """
    for name in request:
        if name.startswith("adafv"):
            raise ValueError(
                f"{name} is no field of a request: pass it in mm_processor_kwargs, e.g. {EXAMPLE}"
            )
    options = request.get("mm_processor_kwargs")
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ValueError(f"mm_processor_kwargs is no object: pass e.g. {EXAMPLE}")
    for name, value in options.items():
        # errors repeat what they refuse, and so must not be as long as a client likes
        if len(f"{name}{value}") > LONGEST_OPTION:
            raise ValueError(
                f"{name[:LONGEST_OPTION]} has more than {LONGEST_OPTION} characters: write less"
            )
    return options


def _check_restricted(
    request: Mapping[str, Any], options: Mapping[str, Any], server: Mapping[str, Any]
) -> None:
    """Raise a `ValueError` for what a server with `adafv_only` leaves to whoever started it."""
    check_restricted(options, server.get("adafv_method"))
    if request.get("media_io_kwargs"):
        raise ValueError(
            "media_io_kwargs: this server takes options of adafv only, in mm_processor_kwargs"
        )


def _holds(part: Mapping[str, Any], kinds: frozenset[str]) -> bool:
    """Return whether a part of a message is of some kinds, by its type or else by its keys."""
    kind = part.get("type")
    if isinstance(kind, str):
        return kind in kinds
    return not kinds.isdisjoint(part)


def _check_address(part: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if an image or a video by address has none."""
    default = "video_url" if "video_url" in part else "image_url"
    named = part.get("type")
    kind = ADDRESSES.get(named if isinstance(named, str) else default)
    if kind is None:
        return
    address = part.get(f"{kind}_url")
    if isinstance(address, Mapping):
        address = address.get("url")
    # one that vLLM has seen under this name
    known = address is None and part.get("uuid") is not None
    if not known and not (isinstance(address, str) and address):
        example = "data:image/png" if kind == "image" else "data:video/mp4"
        raise ValueError(f'{kind}_url holds no address: pass {{"url": "{example};base64,…"}}')
