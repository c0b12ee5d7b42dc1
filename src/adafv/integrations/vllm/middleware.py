"""Requests that vLLM would misread, refused in one sentence before it does.

`adafv serve` passes `--middleware adafv.integrations.vllm.middleware.Checks`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adafv.integrations.vllm.media import PIXELS

__all__ = ["Checks", "check"]

IMAGES = frozenset({"image_url", "input_image", "image", "image_pil", "image_embeds"})
MEDIA = IMAGES | {"video_url", "video_embeds"}
WITHOUT_OPTIONS = ("/v1/messages", "/cohere")
LONGEST_OPTION = 200
EXAMPLE = '{"adafv_keep": 0.25}'


class Checks:
    """ASGI middleware. A request is looked at when its endpoint reads it, and so behind the
    server's authentication.

    Options that nothing would come of are refused, whether vLLM leaves them out or has no image
    to apply them to; so are questions without words.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        PIXELS.set([])
        read = False

        async def checked() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            message = await receive()
            body = [message.get("body", b"")]
            while message.get("more_body"):
                message = await receive()
                body.append(message.get("body", b""))
            if message["type"] != "http.request":
                return message
            whole = b"".join(body)
            try:
                request = json.loads(whole)
            except (
                ValueError,
                RecursionError,
            ):  # for vLLM to refuse, or no JSON and none of our business
                request = None
            if isinstance(request, dict):
                try:
                    check(request, scope["path"], scope["app"].state.args.mm_processor_kwargs or {})
                except ValueError as error:
                    raise HTTPException(400, str(error)) from None
            return {"type": "http.request", "body": whole, "more_body": False}

        await self.app(scope, checked, send)


def check(request: Mapping[str, Any], path: str, server: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a request asks for what would not be done.

    Args:
        request: the JSON object.
        path: of the endpoint.
        server: the options that the server was started with.
    """
    if stray := [name for name in request if name.startswith("adafv")]:
        raise ValueError(
            f"{stray[0]} is no field of a request: pass it in mm_processor_kwargs, e.g. {EXAMPLE}"
        )
    options = request.get("mm_processor_kwargs") or {}
    if not isinstance(options, Mapping):
        raise ValueError(f"mm_processor_kwargs is no object: pass e.g. {EXAMPLE}")
    if long := [name for name, value in options.items() if len(f"{name}{value}") > LONGEST_OPTION]:
        raise ValueError(
            f"{long[0][:LONGEST_OPTION]} has more than {LONGEST_OPTION} characters: write less"
        )
    method = options.get("adafv_method")
    if (
        server.get("adafv_only")
        and isinstance(method, str)
        and ":" in method
        and method != server.get("adafv_method")
    ):
        raise ValueError(
            f"the options of adafv_method={method!r} are for the server to set: name the method alone, or start the "
            f"server with --method {method}"
        )
    if request.get("media_io_kwargs") and server.get("adafv_only"):
        raise ValueError(
            "media_io_kwargs: this server takes options of adafv only, in mm_processor_kwargs"
        )
    messages = [request.get("messages"), request.get("input")]
    parts = list(_objects(messages))
    if ours := [name for name in options if name.startswith("adafv")]:
        if any(part in path for part in WITHOUT_OPTIONS):
            raise ValueError(
                f"{path} has no {ours[0]}: ask /v1/chat/completions, or start the server with --keep"
            )
        if not any(_holds(part, MEDIA) for part in parts) and not request.get(
            "previous_response_id"
        ):
            raise ValueError(f"{ours[0]} without an image: there is nothing to prune, leave it out")
    images = [part for part in parts if _holds(part, IMAGES)]
    for image in images:
        _check_address(image)
    turn = _turn(request)
    if images and turn and not "".join(_texts(turn)).strip():
        raise ValueError("the question is empty: ask something about the image")
    try:
        "".join(_texts(messages)).encode()
    except UnicodeEncodeError:
        raise ValueError(
            "the text holds half a surrogate pair, which is no character: encode it again"
        ) from None


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All JSON objects in a value, however deep."""
    left = [value]
    while left:
        match left.pop():
            case dict() as found:
                yield found
                left += found.values()
            case list() as found:
                left += found


def _holds(part: Mapping[str, Any], kinds: frozenset[str]) -> bool:
    return (
        part.get("type") in kinds
        if isinstance(part.get("type"), str)
        else not kinds.isdisjoint(part)
    )


def _check_address(image: Mapping[str, Any]) -> None:
    if image.get("type", "image_url") not in ("image_url", "input_image"):
        return
    address = image.get("image_url")
    if isinstance(address, Mapping):
        address = address.get("url")
    # an image that vLLM has seen under this name
    known = address is None and image.get("uuid") is not None
    if not known and not (isinstance(address, str) and address):
        raise ValueError('image_url holds no address: pass {"url": "data:image/png;base64,…"}')


def _texts(contents: list[Any]) -> Iterator[str]:
    """What is written in the contents of messages."""
    yield from (content for content in contents if isinstance(content, str))
    yield from (
        text
        for part in _objects(contents)
        for text in map(part.get, ("text", "content"))
        if isinstance(text, str)
    )


def _turn(request: Mapping[str, Any]) -> list[Any]:
    """What was sent since the last answer."""
    messages = request.get("messages") or request.get("input")
    turn: list[Any] = [request.get("instructions"), request.get("system")]
    for message in messages if isinstance(messages, list) else [messages]:
        turn = (
            []
            if isinstance(message, dict) and message.get("role") == "assistant"
            else [*turn, message]
        )
    return turn
