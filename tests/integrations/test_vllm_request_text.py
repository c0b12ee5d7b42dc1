"""What is written in a request of vLLM's server: placeholders become words, tools are not asked."""

from adafv.integrations.vllm.request_text import asks, last_turn, parts_in, spell_out

PAD = "<|image_pad|>"


def test_a_placeholder_in_two_parts_of_a_message():
    """Templates write one part behind the other; an image between them keeps them apart."""
    split = [{"type": "text", "text": "a <|image"}, {"type": "text", "text": "_pad|> b"}]
    in_three = [{"text": "<|im"}, {"text": "age_"}, {"text": "pad|>"}]
    apart = [{"text": "<|image"}, {"type": "image_url"}, {"text": "_pad|>"}]
    for parts, found in ((split, True), (in_three, True), (apart, False)):
        request = {"messages": [{"role": "user", "content": parts}]}
        assert spell_out(request, [PAD]) is found
        written = "".join(part.get("text", "|") for part in parts)
        assert PAD not in written
        assert not spell_out(request, [PAD])


def test_a_placeholder_in_the_name_of_a_field():
    """Templates print a tool's schema; its order and all else stay."""
    properties = {"a": 1, PAD: {"type": "string"}, "b": 2}
    request = {"tools": [{"function": {"parameters": {"properties": properties}}}]}
    assert spell_out(request, [PAD])
    [tool] = request["tools"]
    spelled = tool["function"]["parameters"]["properties"]
    assert list(spelled) == ["a", "< |image_pad|>", "b"]
    assert spelled["< |image_pad|>"] == {"type": "string"}


def test_what_a_tool_is_called_with_is_no_part():
    """What it returned is one, however deep."""
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    called = {"type": "tool_use", "name": "crop", "input": {"image": "a.png"}}
    returned = {"type": "tool_result", "content": [image]}
    messages = [
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [returned]},
        {"type": "function_call_output", "output": [image]},
    ]
    parts = list(parts_in([messages, None, "words"]))
    assert parts.count(image) == 2
    assert called in parts
    assert {"image": "a.png"} not in parts


def test_who_asks():
    """A user's own message, or a bare prompt; what a tool returned asks nothing."""
    turn = last_turn({"messages": [{"role": "user"}, {"role": "assistant"}, {"role": "tool"}]})
    assert not any(map(asks, turn))
    result = {"role": "user", "content": [{"type": "tool_result", "content": ""}]}
    assert not asks(result)
    assert asks({"role": "user", "content": ""})
    assert asks({"role": "user", "content": [{"type": "text", "text": ""}]})
    assert any(map(asks, last_turn({"input": "what is it?"})))
