"""A server of `adafv serve` for tests, and what is sent to it."""

import base64
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

import psutil
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from adafv.demo.server import FLAGS, Server, chat

CHAT = "/v1/chat/completions"
FLAT = (
    *FLAGS,
    "--keep",
    "0.1",
    "--cache-mb",
    "4",
    "--image-cache-mb",
    "4",
    "--mm-processor-cache-gb",
    "0.02",
    "--num-gpu-blocks-override",
    "256",
)
"""Caches so small that a warm-up fills them: of encoded images, of decoded and prepared ones,
of items, and of keys and values.
"""


@dataclass(frozen=True)
class Said:
    """An answer, or a refusal, and how long the prompt was."""

    status: int
    text: str
    tokens: int = 0


def ask(server: Server, body: Any, path: str = CHAT, timeout: float = 120) -> Said:
    status, answer = server.post(path, body, timeout)
    if status != 200:
        return Said(status, answer["error"]["message"])
    return Said(
        status, answer["choices"][0]["message"]["content"].strip(), answer["usage"]["prompt_tokens"]
    )


def check_refused(said: Said, word: str) -> None:
    """A 4xx with one sentence that holds a word: no page of repr."""
    assert 400 <= said.status < 500, said
    assert word in said.text
    assert len(said.text) < 300
    assert not any(mark in said.text for mark in ("\n", "Traceback", "pydantic", "object at 0x"))


def headers(server: Server, body: dict[str, Any]) -> dict[str, str]:
    """The headers of a response, in lower case."""
    data = json.dumps(body).encode()
    request = Request(server.url + CHAT, data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=120) as answer:
        answer.read()
        return {name.lower(): value for name, value in answer.headers.items()}


def stream(server: Server, body: dict[str, Any]) -> list[str]:
    """The pieces of an answer, as they come."""
    data = json.dumps({**body, "stream": True}).encode()
    with urlopen(
        Request(server.url + CHAT, data, {"Content-Type": "application/json"}), timeout=120
    ) as answer:
        lines = [line.decode().strip().removeprefix("data: ") for line in answer if line.strip()]
    assert lines[-1] == "[DONE]"
    return [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]


def metrics(server: Server) -> dict[str, float]:
    """What `/metrics` says, by name; of labels only method and reason, behind the name."""
    with urlopen(f"{server.url}/metrics", timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = [sample.labels[x] for x in ("method", "reason", "le") if x in sample.labels]
        name = " ".join([sample.name, *labels])
        found[name] = found.get(name, 0) + sample.value
    return found


def memory(server: Server) -> int:
    """Resident bytes of the server's processes."""
    first = psutil.Process(server.pid)
    return sum(process.memory_info().rss for process in (first, *first.children(recursive=True)))


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def about(
    address: Any, question: Any = "what color is it?", count: int = 1, **options: Any
) -> dict[str, Any]:
    """A question about an image at an address; other fields of the request as they are."""
    picture = {"type": "image_url", "image_url": {"url": address}}
    if "uuid" in options:
        picture["uuid"] = options.pop("uuid")
    content = [*[picture] * count, {"type": "text", "text": question}]
    return {
        "model": "embedded",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 4,
        **options,
    }


def pruned(**options: Any) -> dict[str, Any]:
    """A question about a red image, with these `mm_processor_kwargs`."""
    return {
        **chat(Image.new("RGB", (64, 48), "red"), "what color is it?"),
        "mm_processor_kwargs": options,
    }


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": "embedded",
        "messages": [{"role": "user", "content": words}],
        "max_tokens": 4,
        **fields,
    }


def blank(width: int, height: int) -> bytes:
    """A black PNG of any size, in one bit per pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    squeeze = zlib.compressobj()
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
