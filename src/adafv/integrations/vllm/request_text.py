"""Find what is written in a request, however deep, and write placeholders as words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["last_turn", "objects_in", "spell_out", "strings_in", "texts_in"]

# Fields of a request that the model reads.
WRITTEN = ("messages", "input", "instructions", "system", "tools", "documents")


def spell_out(request: dict[str, Any], tokens: Sequence[str]) -> bool:
    """Write control tokens that somebody typed as words, `<image>` as `< image>`.

    vLLM would take them for a picture that is not there, in this turn and all that follow.

    Args:
        request: the JSON object, which is changed.
        tokens: that stand for a picture.

    Returns:
        Whether there was one.
    """
    found = False
    # a stack, for a request may be nested deeper than Python recurses
    left: list[tuple[Any, Any]] = [(request, name) for name in WRITTEN if name in request]
    while left:
        container, key = left.pop()
        value = container[key]
        if isinstance(value, dict):
            left += [(value, name) for name in value]
        elif isinstance(value, list):
            left += [(value, index) for index in range(len(value))]
        elif isinstance(value, str):
            for token in tokens:
                value = value.replace(token, f"{token[0]} {token[1:]}")
            found |= value != container[key]
            container[key] = value
    return found


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all JSON objects in a value, however deep."""
    # a stack, for a request may be nested deeper than Python recurses
    left = [value]
    while left:
        match left.pop():
            case dict() as found:
                yield found
                left += found.values()
            case list() as found:
                left += found


def strings_in(value: Any) -> Iterator[str]:
    """Yield all text in a value, names of fields too, however deep."""
    left = [value]
    while left:
        match left.pop():
            case str() as found:
                yield found
            case dict() as found:
                left += [*found, *found.values()]
            case list() as found:
                left += found


def texts_in(contents: list[Any]) -> Iterator[str]:
    """Yield what is written in the contents of messages."""
    for content in contents:
        if isinstance(content, str):
            yield content
    for part in objects_in(contents):
        for key in ("text", "content"):
            text = part.get(key)
            if isinstance(text, str):
                yield text


def last_turn(request: Mapping[str, Any]) -> list[Any]:
    """Return what was sent since the last answer."""
    messages = request.get("messages") or request.get("input")
    if not isinstance(messages, list):
        messages = [messages]
    turn: list[Any] = [request.get("instructions"), request.get("system")]
    for message in messages:
        # an answer begins a new turn
        if isinstance(message, dict) and message.get("role") == "assistant":
            turn = []
        else:
            turn.append(message)
    return turn
