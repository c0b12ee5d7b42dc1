"""Protects a server from bodies nobody thought of: a thousand requests, drawn by Hypothesis."""

import json
import re
from collections.abc import Iterator

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-engines")
pytest.importorskip("hypothesis", reason="needs hypothesis: make test-engines")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server import CHAT, FLAT, about, ask, blank, data_url, text

from adafv.demo.server import Server, serving

pytestmark = pytest.mark.engines

REQUESTS = 1000
OTHERS = ("/v1/completions", "/v1/responses", "/v1/messages", "/tokenize", "/detokenize")
PATHS = (*[CHAT] * len(OTHERS), *OTHERS)
GOOD = about(data_url(blank(64, 48)), temperature=0)
INSIDE = re.compile(r"Traceback|File \"|site-packages|object at 0x|pydantic\.dev")

WORDS = st.sampled_from(
    [
        "adafv_keep",
        "adafv_method",
        "adafv",
        "random:seed=1",
        "<image>",
        "image_url",
        "video_url",
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        "data:image/png;base64,iVBORw0KGgo=",
        "",
        "\ud800",
        "\x00",
    ]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    WORDS,
    st.text(max_size=20),
)
FIELDS = (*GOOD, "mm_processor_kwargs", "media_io_kwargs", "stream", "tools", "input", "prompt")
KEYS = st.one_of(st.sampled_from(FIELDS), WORDS, st.text(max_size=8))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def bodies(draw) -> bytes:
    """A good request of which something is replaced or added, or JSON of any kind, or bytes."""
    kind = draw(st.sampled_from(("field", "field", "part", "options", "json", "bytes")))
    body = json.loads(json.dumps(GOOD))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "json":
        body = draw(VALUES)
    elif kind == "field":
        body |= draw(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=2))
    elif kind == "options":
        options = st.dictionaries(WORDS, LEAVES, min_size=1, max_size=3)
        body["mm_processor_kwargs"] = draw(options)
    else:
        part = draw(st.dictionaries(KEYS, VALUES, max_size=3))
        body["messages"][0]["content"].append(part)
    # a long answer is no fault, but would take long
    if isinstance(body, dict):
        for name in ("max_tokens", "n", "max_completion_tokens", "max_output_tokens"):
            body.pop(name, None)
        body["max_tokens"] = 2
    return json.dumps(body).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*FLAT) as running:
        yield running


def test_no_body_ends_the_server(server):
    """Each is answered or refused with a sentence; a good one gets its answer after all."""
    before = ask(server, GOOD)
    assert before.status == 200
    statuses: dict[int, int] = {}
    faults: list[tuple[int, str, bytes, str]] = []

    @settings(
        max_examples=REQUESTS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(PATHS), bodies())
    def send(path: str, body: bytes) -> None:
        status, said = answer(server, path, body)
        statuses[status] = statuses.get(status, 0) + 1
        if status >= 500 or (status != 200 and INSIDE.search(said)):
            faults.append((status, path, body, said[:300]))

    send()
    print(json.dumps(statuses))
    assert sum(statuses.values()) >= REQUESTS
    assert faults == [], f"{len(faults)}: {faults[:5]}"
    assert ask(server, GOOD) == before
    assert ask(server, text("what color is it?")).status == 200
    assert server.healthy()


def answer(server: Server, path: str, body: bytes) -> tuple[int, str]:
    """Status and text of an answer, which is no JSON where it comes in pieces."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    request = Request(server.url + path, body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=120) as found:
            return found.status, found.read().decode(errors="replace")
    except HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode(errors="replace")
