"""Clips of requests: read as the library reads them, and refused before the engine sees them."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from server import data_url
from zoo.base import show

from adafv.integrations.vllm import media
from adafv.models import videos


def read(address: str, frames: int = 4, **domains: Any) -> Any:
    """What vLLM is handed of a video at an address, in a request of its own."""
    media.PIXELS.set([])
    connector = media.Connector({"video": {"num_frames": frames}}, **domains)
    return asyncio.run(connector.fetch_video_async(address))


def write(path: Path, size: tuple[int, int] = (48, 32), count: int = 8) -> str:
    """A data URL of a video of noise."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(np.asarray(show(*size, seed=i)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return data_url(path.read_bytes(), "video/mp4")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (data_url(b"GIF89a" + bytes(99), "video/mp4"), "the video is a GIF"),
        (data_url(bytes(500), "video/mp4"), "the video begins as no format of videos"),
        (data_url(b"", "video/mp4"), "the video is empty"),
        ("data:video/jpeg;base64,/9j/4A==,/9j/4A==", "the video is not valid base64"),
        ("data:video/mp4,abc", "data URL is not base64: send data:video/mp4;base64"),
        ("https://example.org/a.mp4", "is not fetched: send the video as a data URL"),
        ("file:///etc/a.mp4", "is not read: send the video as a data URL"),
        ("a.mp4", "'a.mp4' is no address of a video"),
    ],
)
def test_what_is_no_video(address, said):
    """One sentence, which vLLM passes on as a bad request."""
    with pytest.raises(ValueError, match=said):
        read(address, allowed_media_domains=[media.NOWHERE])


def test_videos_that_are_too_much(tmp_path, monkeypatch):
    """Cut off, without frames, too long, too many bytes, or pixels: refused before the engine."""
    address = write(tmp_path / "a.mp4")
    content = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(ValueError, match=r"the video (is cut off|cannot be read as a video)"):
        read(data_url(content[:-200], "video/mp4"))
    with pytest.raises(ValueError, match="frames=65 of a video are not possible"):
        read(address, 65)
    for owner, name, limit, said in (
        (videos, "MAX_SECONDS", 1, "the video is 0 minutes long, more than"),
        (videos, "MAX_BYTES", 99, "the video has 0.0 GB, more than"),
        (videos, "MAX_PIXELS", 99, "the video has frames of 48×32 pixels"),
        (media, "MAX_PIXELS", 4 * 48 * 32 - 1, "the frames and images have more than 6,143 pixels"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, limit)
            with pytest.raises(ValueError, match=said):
                read(address)
    connector = media.Connector({"video": {"fps": 2}})
    with pytest.raises(ValueError, match="videos are read without fps"):
        asyncio.run(connector.fetch_video_async(address))
