"""Find what is written in a request, however deep, and write placeholders as words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["asks", "last_turn", "parts_in", "spell_out", "strings_in", "texts_in", "tokens_of"]

# Fields of a request that the model reads.
WRITTEN = ("messages", "input", "instructions", "system", "tools", "documents")


def tokens_of(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the tokens with some ids, but for those that the vocabulary lacks.

    A configuration may name one for videos which are text in the model's prompts.
    """
    return [token for token in tokenizer.convert_ids_to_tokens(ids) if token is not None]


def spell_out(request: dict[str, Any], tokens: Sequence[str]) -> bool:
    """Write control tokens that somebody typed as words, `<image>` as `< image>`.

    vLLM would take them for a picture that is not there, in this turn and all that follow. So are
    those in names of fields, which tools may have, and those that begin in one part of a message
    and end in the next.

    Args:
        request: the JSON object, which is changed.
        tokens: that stand for a picture.

    Returns:
        Whether there was one.
    """
    found = False
    # a stack, for a request may be nested deeper than Python recurses
    left: list[tuple[Any, Any]] = [(request, name) for name in WRITTEN if name in request]
    lists: list[list[Any]] = []
    while left:
        container, key = left.pop()
        value = container[key]
        if isinstance(value, dict):
            spelled = {_spelled(name, tokens): of_name for name, of_name in value.items()}
            if spelled.keys() != value.keys():
                container[key] = value = spelled
                found = True
            left += [(value, name) for name in value]
        elif isinstance(value, list):
            lists.append(value)
            left += [(value, index) for index in range(len(value))]
        elif isinstance(value, str):
            container[key] = _spelled(value, tokens)
            found |= container[key] != value
    for parts in lists:
        found |= _separate(parts, tokens)
    return found


def _spelled(text: str, tokens: Sequence[str]) -> str:
    for token in tokens:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _separate(parts: list[Any], tokens: Sequence[str]) -> bool:
    """Write a space between parts of a message that would make a token together.

    Returns:
        Whether there were such.
    """
    found = False
    longest = max(map(len, tokens), default=0)
    before = ""
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            before = ""
            continue
        if any(token in before + text for token in tokens):
            part["text"] = text = f" {text}"
            found = True
        before = (before + text)[-longest:]
    return found


def parts_in(messages: Any) -> Iterator[dict[str, Any]]:
    """Yield messages, and the parts of what they and tools say; not what a tool is called with."""
    yield from _objects_in(messages, ("content", "output"))


def asks(message: Any) -> bool:
    """Return whether a message is a user's own, and not what a tool returned."""
    if not isinstance(message, dict):
        return message is not None
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    returned = any(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts)
    return message.get("role") == "user" and not returned


def _objects_in(value: Any, below: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a value, however deep.

    Args:
        below: the fields whose values may hold further ones; None: all.
    """
    # a stack, for a request may be nested deeper than Python recurses
    left = [value]
    while left:
        match left.pop():
            case dict() as found:
                yield found
                left += [found.get(name) for name in (found if below is None else below)]
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
    for part in _objects_in(contents):
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
