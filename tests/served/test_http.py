"""Pruning over HTTP: the library's answers, one sentence for bad input, and a server that bears a
load.
"""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from PIL import Image
from rich.console import Console
from server import (
    CHAT,
    FLAT,
    Said,
    about,
    ask,
    blank,
    check_refused,
    data_url,
    headers,
    memory,
    metrics,
    pruned,
    stream,
    text,
)

from adafv import METHODS, method
from adafv.core.config import DEFAULT_METHOD
from adafv.data.suites import load_suite
from adafv.demo import server as demo
from adafv.demo.server import Server, chat, running, serving
from adafv.integrations.vllm.counters import NAMES, REASONS
from adafv.integrations.vllm.request_text import spell_out
from adafv.models.ask import ask as ask_library
from adafv.models.load import load

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "build" / "clients"
RED = data_url(blank(64, 48))
WORDS = {"type": "text", "text": "what color is it?"}
LINEAR = ("adafv", "adafv+", "fastervlm", "t2i", "dart", "random", "uniform", "pool", "none")
"""Methods that requests may name; beside them one whose cost is bounded."""
LOAD, WARM_UP, HOSTILE, AT_ONCE = 500, 650, 1000, 32
LIMIT, SLACK = 2, 10
"""Seconds to answer in once a server is told to end, and to end in on a busy machine."""
GROWTH = 192 * 2**20
"""Of the server's memory over the load, in bytes."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*FLAT, "--methods", ",".join([*LINEAR, "mmr"])) as running:
        yield running


@pytest.fixture(scope="module")
def library():
    return load(None, "cpu", "float32")


@cache
def asked() -> list:
    """Images of scenes with three questions each."""
    return [
        (s.image, q.text) for s in load_suite("scenes", limit=3, seed=5) for q in s.questions[:3]
    ]


def at_once(server: Server, bodies: list) -> list[Said]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda body: ask(server, body), bodies))


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 1.0},
        {"keep": 0.25},
        {"keep": 0.05},
        {"tokens": 20},
        {"keep": 0.1, "method": "adafv+"},
        {"keep": 0.1, "method": "fastervlm"},
        {"keep": 0.1, "method": "random"},
    ],
    ids=str,
)
def test_a_request_gets_the_librarys_answers(server, library, options):
    """Method and budget of a request count, not the server's; questions that arrive together don't
    mix.
    """
    pruner = method(
        **{"name": DEFAULT_METHOD} | {"name" if n == "method" else n: v for n, v in options.items()}
    )
    said = at_once(server, [chat(picture, question, **options) for picture, question in asked()])
    expected = [ask_library(*library, picture, question, pruner) for picture, question in asked()]
    assert [s.text for s in said] == [e.answer for e in expected]


def test_a_request_that_says_nothing_gets_the_servers_budget(server):
    """`adafv serve --keep 0.1` prunes without being asked, and reads as much less as it says."""
    picture, question = asked()[0]
    plain, same, half, whole = (
        ask(server, chat(picture, question, **options))
        for options in ({}, {"keep": 0.1}, {"keep": 0.5}, {"keep": 1})
    )
    assert plain == same
    assert plain.tokens < half.tokens < whole.tokens
    assert 0.09 < (plain.tokens - 15) / whole.tokens < 0.11


@pytest.mark.parametrize("name", METHODS)
def test_every_method_by_name(server, name):
    """Answered or refused with a sentence, down to a single token; no method takes the engine with
    it.
    """
    for budget in ({"adafv_keep": 0.1}, {"adafv_tokens": 1}):
        assert ask(server, pruned(adafv_method=name, **budget)).status in (200, 400)
    assert server.healthy()


def test_streaming(server):
    """The pieces of a streamed answer are the answer; bad input is refused before the stream
    begins.
    """
    request = chat(*asked()[0], keep=0.25)
    pieces = stream(server, request)
    assert len(pieces) > 1
    assert "".join(pieces).strip() == ask(server, request).text
    assert ask(server, {**chat(*asked()[0], keep=3), "stream": True}).status == 400


def test_text_only(server):
    """A prompt without an image is served as by vLLM, beside others."""
    said = ask(server, text("what color is it?"))
    assert said.status == 200
    assert said.text
    assert said.tokens < 20


def test_a_placeholder_that_is_typed_is_a_word(server):
    """Of the question, in this turn and in those that follow; the library refuses it."""
    picture, question = asked()[0]
    request = chat(picture, f"{question} <image>", keep=0.25)
    said = ask(server, request)
    assert said.status == 200
    spelled = ask(server, chat(picture, f"{question} < image>", keep=0.25))
    assert said == spelled

    answer = {"role": "assistant", "content": "an <image>"}
    later = [*request["messages"], answer, {"role": "user", "content": "and <image> now?"}]
    assert ask(server, request | {"messages": later}).status == 200


def test_a_placeholder_is_a_word_wherever_it_is_typed():
    """In what a tool has put out, in its schema, in reasoning; all else stays as it is."""
    request = {
        "input": [{"type": "function_call_output", "output": "an <image>"}],
        "messages": [
            {
                "role": "assistant",
                "reasoning": "<image>?",
                "content": [{"input": {"a": ["<image>"]}}],
            }
        ],
        "tools": [{"function": {"parameters": {"enum": ["<image>", 3, None]}}}],
        "model": "<image>",
    }
    assert spell_out(request, ["<image>"])
    assert json.dumps(request).count("< image>") == 4
    assert request["model"] == "<image>"
    assert request["tools"][0]["function"]["parameters"]["enum"][1:] == [3, None]
    assert not spell_out({"messages": [{"content": "words"}], "input": None}, ["<image>"])


def test_a_grammar_that_the_vocabulary_cannot_meet(server):
    """No word of the embedded model has a z: the request is refused, and the engine goes on."""
    impossible = text("what color is it?", structured_outputs={"choice": ["zebra"]})
    said = ask(server, impossible)
    assert said.status == 400
    assert "vocabulary" in said.text
    possible = text("what color is it?", structured_outputs={"choice": ["red", "blue"]})
    assert ask(server, possible).text in ("red", "blue")


def test_the_demo_shows_what_the_server_says(server, monkeypatch, capsys):
    """`make serve-demo`, whose own server is this one."""
    monkeypatch.setattr(demo, "serving", lambda *flags: nullcontext(server))
    demo.run(Console(width=150))
    shown = capsys.readouterr().out
    for words in ("Answers over HTTP", "100%", "25%", "5%", "(same image)", "✗ marks a wrong"):
        assert words in shown


def test_usage_says_how_many_tokens_of_images_were_read(server):
    picture, question = asked()[0]
    _, answer = server.post(CHAT, chat(picture, question, tokens=20))
    assert answer["usage"]["prompt_tokens_details"]["multimodal_tokens"] == {"image": 20}


def grown(server: Server, *bodies: dict) -> dict[str, float]:
    """What `/metrics` counts more once some requests are answered, one after the other."""
    before = metrics(server)
    for body in bodies:
        ask(server, body)
    after = metrics(server)
    return {name: value - before.get(name, 0) for name, value in after.items()}


def test_a_header_warns_of_an_image_that_is_smaller_than_a_patch(server):
    """As the command line does; decoded now or found decoded, streamed or not, and said once."""
    tiny = about(data_url(blank(1, 1)), "is it red?")
    for options in ({}, {"stream": True}):
        said = headers(server, tiny | options)["adafv-warning"]
        assert said.startswith("an image is 1x1 pixels, smaller than one patch of 14x14 ")
    content = tiny["messages"][0]["content"]
    content.insert(0, content[0])
    assert headers(server, tiny)["adafv-warning"] == said
    assert "adafv-warning" not in headers(server, about(data_url(blank(14, 14)), "is it red?"))


def test_headers_say_how_many_tokens_each_image_has(server, library):
    """N and K, of one image and of two, streamed or not, found in the cache or not, pruned or
    whole; none of text.
    """
    picture, question = asked()[0]
    n = ask_library(*library, picture, question, method("none"), 1).visual_tokens
    for options in ({}, {"stream": True}, {}):
        one = headers(server, chat(picture, question, tokens=20) | options)
        assert (one["adafv-visual-tokens"], one["adafv-kept-tokens"]) == (str(n), "20")
        red = pruned(adafv_tokens=7) | options
        image = red["messages"][0]["content"][0]
        red["messages"][0]["content"] = [image, image, WORDS]
        two = headers(server, red)
        assert two["adafv-kept-tokens"] == "7, 7"
    # of a whole image its newlines are read, too
    whole = headers(server, chat(picture, question, keep=1))
    assert whole["adafv-kept-tokens"] == whole["adafv-visual-tokens"]
    assert int(whole["adafv-kept-tokens"]) > n
    assert "adafv-visual-tokens" not in headers(server, text("hello"))


def test_metrics_count_tokens_by_method_and_what_the_tower_did(server):
    """Of two questions about a new picture, the second again, and one about another unpruned."""
    picture, question = asked()[0]
    new = marked(picture, 9001)
    options = {"tokens": 20, "method": "fastervlm"}
    other = chat(new, f"{question} it?", tokens=20)
    whole = chat(marked(picture, 9002), "?", keep=1)
    found = grown(server, chat(new, question, **options), other, other, whole)
    seen, kept = (found[f"adafv:visual_tokens_{x}_total none"] for x in ("seen", "kept"))
    assert seen == kept > 200
    for name, count in {"fastervlm": 1, DEFAULT_METHOD: 2}.items():
        assert found[f"adafv:visual_tokens_kept_total {name}"] == 20 * count
        assert found[f"adafv:visual_tokens_seen_total {name}"] >= 200 * count
        assert found[f"adafv:kept_share_count {name}"] == count
        assert found[f"adafv:kept_share_bucket {name} 0.15"] == count
        assert found[f"adafv:kept_share_bucket {name} 0.01"] == 0
    assert found["adafv:images_encoded_total"] == found["adafv:encodings_reused_total"] == 1
    # another question prepares nothing; the same again does not even look; whole ones are vLLM's
    assert found["adafv:images_prepared_total"] == found["adafv:prepared_images_reused_total"] == 1
    assert found["adafv:images_decoded_total"] == found["adafv:decoded_images_reused_total"] == 2
    # the same question again has nothing to choose
    assert found["adafv:selection_seconds_count"] == 2
    assert 0 < found["adafv:selection_seconds_sum"] < 60


def test_metrics_count_refusals_by_reason(server):
    bodies = {
        "options": pruned(adafv_keep=2),
        "request": about(RED, ""),
        "media": about(data_url(b"no image")),
        "grammar": text("hi", structured_outputs={"choice": ["zebra"]}),
        "cost": BAD["five images that hold others up"][0],
        "shutdown": None,
    }
    found = grown(server, *filter(None, bodies.values()))
    for reason, body in bodies.items():
        assert found[f"adafv:requests_refused_total {reason}"] == (body is not None)


def test_an_image_that_was_refused_among_others_is_sent_alone(server):
    """VLLM's cache takes the engine to have what was prepared: this one it has never seen."""
    options = {"adafv_method": "mmr", "adafv_keep": 0.9}
    address = data_url(blank(61, 47))
    for _ in range(2):
        refused = ask(server, about(address, count=5, mm_processor_kwargs=options))
        assert "may hold up others" in refused.text
        assert ask(server, about(address, mm_processor_kwargs=options)).status == 200


def test_none_is_the_whole_image_whatever_the_server_keeps(server):
    picture, question = asked()[0]
    found = headers(server, chat(picture, question, method="none"))
    assert found["adafv-kept-tokens"] == found["adafv-visual-tokens"]
    whole = headers(server, chat(picture, question, keep=1))
    assert found["adafv-visual-tokens"] == whole["adafv-visual-tokens"]
    few = int(headers(server, chat(picture, question))["adafv-kept-tokens"])
    assert few < int(whole["adafv-kept-tokens"]) / 5


def test_metrics_know_no_options_of_a_method(server):
    """Nor what a client made up: labels are names of methods, of which there are few."""
    for body in (pruned(adafv_method="nobody"), pruned(adafv_method="adafv:reserve=0.5")):
        ask(server, body)
    labels = {name.split()[1] for name in metrics(server) if name.startswith("adafv:visual")}
    assert labels <= set(METHODS)


def test_the_board_asks_for_what_the_server_counts(server):
    """Every name in the PromQL of the Grafana board, with its labels."""
    with urlopen(f"{server.url}/metrics", timeout=60) as answer:
        exported = answer.read().decode()
    board = json.loads((ROOT / "deploy" / "grafana" / "adafv.json").read_text())
    asked_for = " ".join(target["expr"] for x in board["panels"] for target in x["targets"])
    names = set(re.findall(r"(?:adafv|vllm):\w+", asked_for))
    assert len(names) > 12
    for name in names:
        assert re.search(rf"^{name}{{.*model_name=", exported, re.MULTILINE), name
    families = {name.removesuffix("_total") for name in NAMES}
    assert all(any(name.startswith(family) for name in names) for family in families)
    # and the page lists them all
    page = (ROOT / "docs" / "containers.md").read_text()
    assert all(f"`{name}`" in page for name in NAMES)
    assert all(f"`{reason}`" in page for reason in REASONS)


def test_nothing_is_fetched(server):
    """Nobody is called, whatever part of a message holds the address."""
    calls = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as listener:
        Thread(target=listener.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listener.server_port}/a.png"
        for kind in ("image_url", "video_url", "audio_url"):
            part = {"type": kind, kind: {"url": url}}
            body = about(RED) | {"messages": [{"role": "user", "content": [part]}]}
            assert 400 <= ask(server, body).status < 500
        picture = {"type": "input_image", "image_url": url, "detail": "auto"}
        body = {"model": "embedded", "input": [{"role": "user", "content": [picture]}]}
        assert 400 <= server.post("/v1/responses", body)[0] < 500
        listener.shutdown()
    assert calls == []


def snippets() -> dict[str, str]:
    """The blocks of the page on clients, by their headings."""
    page = (ROOT / "docs" / "clients.md").read_text()
    return dict(
        re.findall(
            r"^## ([^\n]+)\n\n<!--[^\n]*\n```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL
        )
    )


@pytest.mark.parametrize("name", ["OpenAI", "LiteLLM", "LangChain"])
def test_clients(server, name):
    """What the page shows runs as it stands, and prints the answer to its own budget."""
    # what vLLM does not bring along is installed beside it: make test-clients
    if name != "OpenAI" and not CLIENTS.is_dir():
        pytest.skip("needs LiteLLM and LangChain: make test-clients")
    picture = Image.open(ROOT / "docs" / "drawings" / "scene.png")
    question = "what color is the umbrella?"
    code = snippets()[name].replace("http://localhost:8000", server.url)
    environment = {**os.environ, "PYTHONPATH": "" if name == "OpenAI" else str(CLIENTS)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answer, count = done.stdout.strip().rsplit("\n", 1)
    said = ask(server, chat(picture, question, keep=0.25))
    assert answer.strip() == said.text
    visual = server.post(CHAT, chat(picture, question, keep=0.25))[1]["usage"]
    counts = (said.tokens, visual["prompt_tokens_details"]["multimodal_tokens"]["image"])
    assert int(count) in counts


def test_the_other_endpoints(server):
    """What takes options prunes, what doesn't says so and prunes as the server does."""
    picture = [
        {"type": "input_image", "image_url": RED, "detail": "auto"},
        {"type": "input_text", "text": "what?"},
    ]
    request = {
        "model": "embedded",
        "input": [{"role": "user", "content": picture}],
        "max_output_tokens": 4,
    }
    counts = [
        server.post("/v1/responses", {**request, "mm_processor_kwargs": {"adafv_keep": keep}})[1][
            "usage"
        ]["input_tokens"]
        for keep in (1, 0.05)
    ]
    assert counts[0] > 200
    assert counts[1] < 40
    status, counted = server.post("/tokenize", {**pruned(adafv_keep=0.05)})
    assert status == 200
    assert counted["count"] < 40
    source = {"type": "base64", "media_type": "image/png", "data": RED.partition(",")[2]}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what?"}]
    claude = {
        "model": "embedded",
        "max_tokens": 4,
        "messages": [{"role": "user", "content": content}],
    }
    status, answer = server.post("/v1/messages", claude)
    assert status == 200
    assert answer["usage"]["input_tokens"] < 60
    said = ask(server, {**claude, "mm_processor_kwargs": {"adafv_keep": 1}}, "/v1/messages")
    assert said.status == 400
    assert "/v1/messages has no adafv_keep" in said.text


def bad() -> dict:
    """Requests that are refused, with words of the sentence."""
    png = blank(300, 300)
    many = {"mm_processor_kwargs": {"adafv_keep": 0.5}}
    return {
        "keep zero": (pruned(adafv_keep=0), "keep=0"),
        "keep two": (pruned(adafv_keep=2), "keep=2"),
        "keep nan": (pruned(adafv_keep=float("nan")), "keep=nan"),
        "keep infinite": (pruned(adafv_keep=float("inf")), "keep=inf"),
        "options in a list": (pruned() | {"mm_processor_kwargs": ["adafv_keep"]}, "is no object"),
        "keep text": (pruned(adafv_keep="half"), "adafv_keep='half' is not a number"),
        "keep list": (pruned(adafv_keep=[1]), "is not a number"),
        "tokens zero": (pruned(adafv_tokens=0), "tokens=0"),
        "keep and tokens": (pruned(adafv_keep=0.5, adafv_tokens=3), "both"),
        "unknown method": (pruned(adafv_method="adafx"), "'adafx' is unknown"),
        "endless work": (pruned(adafv_method="adafv+:spread=100000"), "for the server to set"),
        "no such seed": (pruned(adafv_method=f"random:seed={10**30}"), "for the server to set"),
        "method without end": (
            pruned(adafv_method="a" * 10_000),
            "adafv_method has more than 200 characters",
        ),
        "fastv": (pruned(adafv_method="fastv", adafv_keep=0.6), "between the layers"),
        "visionzip": (pruned(adafv_method="visionzip", adafv_keep=0.6), "visionzip needs 'keys'"),
        "a method that holds others up": (
            pruned(adafv_method="divprune", adafv_keep=0.9),
            "'divprune' is not allowed on this server",
        ),
        "five images that hold others up": (
            about(RED, count=5, mm_processor_kwargs={"adafv_method": "mmr", "adafv_keep": 0.9}),
            "as long as a request may hold up others: send at most",
        ),
        "unknown pin": (pruned(adafv_pin="last"), "adafv_pin='last'"),
        "pin list": (pruned(adafv_pin=[]), "adafv_pin=[] is unknown"),
        "pin false": (pruned(adafv_pin=False), "adafv_pin=False is unknown"),
        "unknown option": (pruned(adafv_kep=0.5), "adafv_kep"),
        "option of the server": (pruned(adafv_only=False), "adafv_only"),
        "option of vLLM": (pruned(do_resize=False), "do_resize"),
        "both options": (pruned(do_resize=False, adafv_keep=0.5), "do_resize"),
        "options that are none": (pruned() | {"mm_processor_kwargs": 3}, "is no object"),
        "options in an empty list": (pruned() | {"mm_processor_kwargs": []}, "is no object"),
        "options that are false": (pruned() | {"mm_processor_kwargs": False}, "is no object"),
        "reading option": (
            pruned() | {"media_io_kwargs": {"image": {"image_mode": "L"}}},
            "media_io_kwargs",
        ),
        "option in the wrong place": (pruned() | {"adafv_keep": 0.5}, "in mm_processor_kwargs"),
        "text with keep": (text("hi", mm_processor_kwargs={"adafv_keep": 0.5}), "without an image"),
        "no image": (about(data_url(b"no image")), "is not an image"),
        "truncated": (about(data_url(png[:60])), "cannot be read as an image"),
        "no bytes": (about(data_url(b"")), "is not an image"),
        "an icon": (about(data_url(b"\0\0\1\0" + png)), "is an icon or a program"),
        "a program": (about(data_url(b"%!PS-Adobe-3.0 EPSF-3.0")), "is an icon or a program"),
        "not base64": (about("data:image/png;base64,@@@"), "not valid base64"),
        "not encoded": (about("data:image/svg+xml,<svg/>"), "is not base64"),
        "30,000 x 30,000": (about(data_url(blank(30_000, 30_000))), "Pillow's limit"),
        "12,000 x 12,000": (about(data_url(blank(12_000, 12_000))), "Pillow's limit"),
        "three of 9,000 x 9,000": (about(data_url(blank(9_000, 9_000)), count=3), "together"),
        "a line": (about(data_url(blank(2_000, 3))), "longer than 100:1"),
        "200 images": (about(data_url(png), count=200), "At most 64 image"),
        "60 images": (about(data_url(blank(30, 30)), count=60, **many), "maximum context length"),
        "long prompt": (about(RED, "color " * 5000), "maximum context length"),
        "long text": (text("color " * 5000), "maximum context length"),
        "empty question": (about(RED, ""), "the question is empty"),
        "blank question": (about(RED, " \n"), "the question is empty"),
        "half a character": (about(RED, "\ud800 what?"), "surrogate"),
        "half a character in a name": (about(RED, tools=[{"\ud800": 1}]), "surrogate"),
        "http": (about("http://127.0.0.1:9/picture.png"), "is not fetched"),
        "file": (about("file:///etc/passwd"), "is not read"),
        "path": (about("/etc/passwd"), "no address of an image"),
        "empty address": (about(""), "image_url holds no address"),
        "no address": (about(None), "image_url holds no address"),
        "a number": (about(3), "image_url holds no address"),
        "a number and a name": (about(3, uuid="a"), "image_url holds no address"),
        "a name alone": (about(None, uuid="never seen"), "by its uuid alone is not looked up"),
        "unknown model": (text("hi") | {"model": "other"}, "other"),
    }


BAD = bad()


@pytest.mark.parametrize("name", BAD)
def test_bad_input(server, name):
    """A client's mistake is a 4xx with one sentence, no page of repr, and the server lives."""
    body, word = BAD[name]
    said = ask(server, body)
    check_refused(said, word)
    assert server.healthy()


def test_no_json(server):
    """Broken JSON, and JSON too deep for Python, are vLLM's to refuse."""
    for body in (b"{nope", b"[" * 100_000, b""):
        status, _ = server.post(CHAT, body)
        assert 400 <= status < 500
    assert server.healthy()


@pytest.mark.parametrize(("key", "status"), [("right", 400), ("wrong", 401)])
def test_strangers_learn_nothing(key, status):
    """A body is looked at behind vLLM's authentication: nobody without a key has one read."""
    from fastapi import FastAPI, Request
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    from adafv.integrations.vllm.middleware import Checks

    app = FastAPI()
    app.state.args = Namespace(mm_processor_kwargs=None, api_key=["right"])
    app.add_middleware(AuthenticationMiddleware, tokens=["right"])
    app.add_middleware(Checks)
    reads, sent = [], []

    @app.post(CHAT)
    async def answer(request: Request) -> dict:
        return await request.json()

    async def receive() -> dict:
        reads.append(len(reads))
        return {
            "type": "http.request",
            "body": b'{"adafv' if len(reads) == 1 else b'_keep": 1}',
            "more_body": len(reads) == 1,
        }

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "headers": headers,
        "query_string": b"",
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == status
    assert len(reads) == (2 if status == 400 else 0)


def mixed(seed: int, count: int) -> list[tuple[dict, object]]:
    """Requests, and what identifies those that read equally long prompts; None: to be refused."""
    draw = random.Random(seed)
    wrong = [body for body, _ in BAD.values()]
    made: list[tuple[dict, object]] = []
    for i in range(count):
        number, keep = draw.randrange(len(asked())), draw.choice([1, 0.25, 0.1, 0.05])
        if i % 10 == 9:
            made.append((draw.choice(wrong), None))
        elif i % 10 == 4:
            made.append((text("what color is it?"), "text"))
        else:
            picture, question = asked()[number]
            made.append(
                (chat(marked(picture, seed * count + i // 3), question, keep=keep), (number, keep))
            )
    return made


def marked(picture: Image.Image, number: int) -> Image.Image:
    """The same scene as a new image: its first pixel is the number."""
    copy = picture.copy()
    copy.putpixel((0, 0), (number % 256, number // 256 % 256, 7))
    return copy


def bear(server: Server, load: list) -> list[Said]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda request: ask(server, request[0]), load))


@pytest.mark.engines
def test_a_load(server):
    """500 requests, 32 at once, a tenth of them bad: each gets its own answer, and memory stays.

    A request brings more than 1 MB of pixels and features. Were they kept, 400 of them would add
    more than 400 MB; after a warm-up that fills the caches no more than `GROWTH` is added.
    """
    bear(server, [*BAD.values(), *mixed(1, WARM_UP)])
    before = memory(server)
    load = mixed(2, LOAD)
    said = bear(server, load)
    after = memory(server)
    print(json.dumps({"before_mib": before >> 20, "after_mib": after >> 20}))
    assert len(said) == LOAD
    lengths = defaultdict(set)
    for (_, kind), answer in zip(load, said, strict=True):
        assert answer.status == 200 if kind else 400 <= answer.status < 500, answer
        if kind:
            lengths[kind].add(answer.tokens)
    assert all(len(found) == 1 for found in lengths.values())
    assert server.healthy()
    assert ask(server, chat(*asked()[0], keep=0.25)).status == 200
    assert after - before < GROWTH


def test_a_thousand_hostile_requests(server):
    """All wrong, 32 at once: each is refused, and a good one is answered meanwhile and after."""
    draw = random.Random(3)
    wrong = [body for body, _ in BAD.values()]
    good = chat(*asked()[0], keep=0.25)
    expected = ask(server, good)
    load: list[tuple[dict, object]] = [(draw.choice(wrong), None) for _ in range(HOSTILE)]
    load.insert(HOSTILE // 2, (good, "good"))
    said = bear(server, load)
    assert said.pop(HOSTILE // 2) == expected
    assert all(400 <= answer.status < 500 for answer in said)
    assert ask(server, good) == expected
    assert server.healthy()


def status(server: Server, path: str) -> int:
    try:
        with urlopen(server.url + path, timeout=10) as answer:
            return answer.status
    except HTTPError as refusal:
        with refusal:
            return refusal.code


@pytest.mark.engines
def test_a_server_ends_within_its_limit_and_logs_no_key(tmp_path):
    """An answer that would take longer is given up. VLLM logs its flags, and where it ends."""
    log = tmp_path / "log"
    # in the place of the shell, so that signals go to the server
    command = ["sh", "-c", 'exec "$@" > "$LOG" 2>&1', "sh", sys.executable, "-P", "-m", "adafv"]
    keys = ("--api-key", "K-secret", "--hf-token", "T-secret")
    flags = ("serve", *FLAT, *keys, "--shutdown-timeout", str(LIMIT))
    variables = {"LOG": str(log), "VLLM_LOGGING_LEVEL": "INFO"}
    with running([*command, *flags], **variables) as started, ThreadPoolExecutor(1) as pool:
        body = text("what color is it?", max_tokens=1500, ignore_eos=True, n=64)
        request = Request(started.url + CHAT, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", "Bearer K-secret")
        answer = pool.submit(urlopen, request, timeout=120)
        while not metrics(started)["vllm:num_requests_running"]:
            assert not answer.done()
        process = psutil.Process(started.pid)
        engines = process.children(recursive=True)
        process.terminate()
        start = time.monotonic()
        process.wait(LIMIT + SLACK)
        assert time.monotonic() - start >= LIMIT
        with pytest.raises(HTTPError) as refusal:
            answer.result()
        assert refusal.value.code == 503
        assert not psutil.wait_procs(engines, timeout=SLACK)[1]
    said = log.read_text()
    assert "'api_key': '***'" in said
    assert "shutdown" in said
    assert "secret" not in said


def test_a_server_that_is_told_to_end_answers_what_runs(server):
    """New requests get 503 meanwhile, and the process ends by itself. No test comes after it."""
    assert status(server, "/ready") == 200
    # as many answers as take some seconds here: they must still run when the server has been told,
    # and end within its limit
    whole = {"max_tokens": 700, "ignore_eos": True}
    start = time.monotonic()
    server.post(CHAT, text("what color is it?", n=4, **whole), 120)
    count = 4 * min(8, max(1, round(3 / (time.monotonic() - start))))
    long = text("what color is it?", n=count, stream=True, **whole)
    request = Request(server.url + CHAT, json.dumps(long).encode())
    request.add_header("Content-Type", "application/json")
    with ThreadPoolExecutor(1) as pool, urlopen(request, timeout=120) as answer:
        # it runs
        begun = answer.readline()
        running = pool.submit(answer.read)
        process = psutil.Process(server.pid)
        process.terminate()
        codes = []
        while not running.done():
            try:
                codes += [status(server, "/ready"), server.post(CHAT, text("hi"))[0]]
            except OSError:
                # the last answer was sent meanwhile, and the port is closed
                break
            time.sleep(0.1)
        told = begun + running.result()
    assert told.count(b'"finish_reason":"length"') == count
    assert told.split()[-1] == b"[DONE]"
    assert codes[-2:] == [503, 503]
    assert process.wait(30) == 0
