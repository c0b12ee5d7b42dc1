"""Clips over HTTP: N and K of each, one sentence for a bad one, and a server that bears many."""

import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")
pytest.importorskip("av")

import av
from checkpoints import save
from server import CHAT, Said, ask, blank, check_refused, data_url, headers
from zoo.base import show

from adafv.demo.server import FLAGS, Server, running

SIZE = (48, 32)
FRAMES = 8
TOKENS = FRAMES // 2 * (SIZE[0] // 8) * (SIZE[1] // 8)
"""Of a clip: two frames merge, and 2 x 2 patches of 4 x 4 pixels."""
IMAGE = (SIZE[0] // 8) * (SIZE[1] // 8)
KEPT = 10
LARGEST = 100_000
"""Bytes of a file, above which this server refuses it."""
HOSTILE, AT_ONCE = 150, 16


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """A server whose limit of a file is lowered where its process begins."""
    model = save("qwen2_5_vl", tmp_path_factory.mktemp("model"))
    limits = tmp_path_factory.mktemp("limits")
    (limits / "sitecustomize.py").write_text(
        f"from adafv.models import videos\nvideos.MAX_BYTES = {LARGEST}\n"
    )
    command = [sys.executable, "-P", "-m", "adafv", "serve", str(model), *FLAGS]
    command += ["--tokens", str(KEPT), "--served-model-name", "tiny"]
    # no eight frames of 96 x 96 pixels fit, which are 576 tokens
    command += ["--max-model-len", "512", "--limit-mm-per-prompt", '{"image": 2, "video": 2}']
    path = os.pathsep.join([str(limits), os.environ.get("PYTHONPATH", "")])
    with running(command, PYTHONPATH=path) as started:
        yield started


def written(count: int = FRAMES, size: tuple[int, int] = SIZE, rate: Fraction | int = 4) -> bytes:
    """An MP4 of noise, whose index stands in front."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("mpeg4", rate=rate)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            # a head is written where no frame follows, too
            container.start_encoding()
            for i in range(count):
                frame = av.VideoFrame.from_ndarray(np.asarray(show(*size, seed=i)), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


def sound() -> bytes:
    """An MP4 of silence alone."""
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def part(content: bytes | str, kind: str = "video") -> dict[str, Any]:
    """A part of a message that holds a file, or names its address."""
    mime = {"video": "video/mp4", "image": "image/png"}[kind]
    address = content if isinstance(content, str) else data_url(content, mime)
    return {"type": f"{kind}_url", f"{kind}_url": {"url": address}}


def about(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A question about clips and images."""
    content = [*parts, {"type": "text", "text": "what color is the anchor ?"}]
    messages = [{"role": "user", "content": content}]
    return {"model": "tiny", "messages": messages, "max_tokens": 4, "temperature": 0, **fields}


GOOD = about(part(written()))


def test_a_clip(server):
    """N and K in the headers, K in the usage; its budget may be the request's."""
    said = headers(server, GOOD)
    assert (said["adafv-visual-tokens"], said["adafv-kept-tokens"]) == (str(TOKENS), str(KEPT))
    _, answer = server.post(CHAT, GOOD)
    assert answer["usage"]["prompt_tokens_details"]["multimodal_tokens"] == {"video": KEPT}
    half = GOOD | {"mm_processor_kwargs": {"adafv_keep": 0.5}}
    assert headers(server, half)["adafv-kept-tokens"] == str(TOKENS // 2)
    whole = GOOD | {"mm_processor_kwargs": {"adafv_keep": 1}}
    assert headers(server, whole)["adafv-kept-tokens"] == str(TOKENS)


def test_an_image_beside_a_clip(server):
    """Each has its own budget, in whichever order they stand."""
    image = part(blank(*SIZE), "image")
    for parts in ((image, part(written())), (part(written()), image)):
        said = headers(server, about(*parts))
        counts = {"adafv-visual-tokens": (IMAGE, TOKENS), "adafv-kept-tokens": (KEPT, KEPT)}
        for name, expected in counts.items():
            found = tuple(map(int, said[name].split(", ")))
            assert sorted(found) == sorted(expected)
        _, answer = server.post(CHAT, about(*parts))
        usage = answer["usage"]["prompt_tokens_details"]["multimodal_tokens"]
        assert usage == {"image": KEPT, "video": KEPT}


def bad() -> dict[str, tuple[dict[str, Any], str]]:
    """Requests that are refused, with words of the sentence."""
    clip = written()
    many = {"media_io_kwargs": {"video": {"num_frames": 65}}}
    return {
        "cut in the middle": (
            about(part(clip[: len(clip) // 2])),
            "is cut off, it holds 2 of 8 frames",
        ),
        "cut before its index ends": (
            about(part(clip[:300])),
            "has no frames: save or download it again",
        ),
        "damaged": (
            about(part(clip[:40] + bytes(len(clip) - 40))),
            "has no frames: save or download it again",
        ),
        "no frames": (about(part(written(0))), "has no frames: save or download it again"),
        "a GIF": (about(part(b"GIF89a" + bytes(99))), "is a GIF"),
        "a picture": (about(part(blank(*SIZE))), "begins as no format of videos"),
        "sound": (about(part(sound())), "perhaps it is sound"),
        "half an hour and more": (
            about(part(written(40, rate=Fraction(1, 60)))),
            "minutes long, more than 30",
        ),
        "large file": (about(part(clip + bytes(LARGEST))), "GB, more than"),
        "more than is profiled": (about(part(written(size=(96, 96)))), "memory is measured"),
        "too many frames": (about(part(clip), **many), "media_io_kwargs"),
        "empty": (about(part(b"")), "the video is empty"),
        "no base64": (about(part("data:video/mp4;base64,@@@")), "not valid base64"),
        "not encoded": (about(part("data:video/mp4,abc")), "is not base64"),
        "frames by themselves": (about(part("data:video/jpeg;base64,/9j/4A==,/9j/")), "base64"),
        "http": (about(part("http://127.0.0.1:9/a.mp4")), "is not fetched"),
        "file": (about(part("file:///etc/passwd")), "is not read"),
        "no address": (about(part("")), "video_url holds no address"),
        "three clips": (about(*[part(clip)] * 3), "At most 2 video"),
        "keep two": (about(part(clip), mm_processor_kwargs={"adafv_keep": 2}), "keep=2"),
        "a picture beside a broken clip": (
            about(part(blank(*SIZE), "image"), part(clip[:200])),
            "the video has no frames",
        ),
    }


BAD = bad()


@pytest.mark.parametrize("name", BAD)
def test_bad_clips(server, name):
    """A client's mistake is a 4xx with one sentence, and the server lives."""
    body, word = BAD[name]
    said = ask(server, body)
    check_refused(said, word)
    assert server.healthy()


def test_many_hostile_clips_at_once(server):
    """Each is refused, and a good one is answered meanwhile and after."""
    expected = ask(server, GOOD)
    assert expected.status == 200
    draw = random.Random(3)
    wrong = [body for body, _ in BAD.values()]
    load = [draw.choice(wrong) for _ in range(HOSTILE)]
    load.insert(HOSTILE // 2, GOOD)

    def sent(body: dict[str, Any]) -> Said:
        return ask(server, body)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(sent, load))
    assert said.pop(HOSTILE // 2) == expected
    assert all(400 <= answer.status < 500 for answer in said)
    assert ask(server, GOOD) == expected
    assert server.healthy()
