"""Protects clients that use tools: what a tool is called with, or returns, is no question."""

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from adafv.integrations.vllm.middleware import check

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
ASKED = {"role": "user", "content": [IMAGE, {"type": "text", "text": "what is it?"}]}
BLANK = {"role": "user", "content": [{"type": "text", "text": " "}]}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "delete"}}]}


def test_a_tool_that_returns_nothing():
    """The question was asked a turn before."""
    check({"messages": [ASKED, CALL, {"role": "tool", "content": ""}]}, CHAT, {})
    seen = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    turn = {"role": "user", "content": [seen, {"type": "input_text", "text": "what is it?"}]}
    said = {"role": "assistant", "content": "let me see"}
    output = {"type": "function_call_output", "output": ""}
    check({"input": [turn, said, {"type": "function_call"}, output]}, RESPONSES, {})
    result = {"role": "user", "content": [{"type": "tool_result", "content": ""}]}
    check({"messages": [ASKED, CALL, result]}, "/v1/messages", {})


def test_an_empty_question_is_refused_as_before():
    for messages in (
        [ASKED, {"role": "assistant", "content": "a cup"}, BLANK],
        [BLANK | {"content": [IMAGE]}],
    ):
        with pytest.raises(ValueError, match="the question is empty"):
            check({"messages": messages}, CHAT, {})


def test_what_a_tool_is_called_with_is_no_image():
    call = {"type": "tool_use", "name": "crop", "input": {"image": "a.png", "x": 3}}
    messages = [{"role": "user", "content": "crop it"}, {"role": "assistant", "content": [call]}]
    check({"messages": messages}, "/v1/messages", {})
