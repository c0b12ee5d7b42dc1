"""What vLLM counts of a request from 0.33 on, bytes decoded and downloaded: counted by our reader
as by vLLM's own.
"""

import asyncio
import inspect
from io import BytesIO
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from server import data_url
from test_videos_served import write
from vllm import connections
from vllm.exceptions import VLLMUnprocessableEntityError
from vllm.multimodal.media import MediaConnector
from zoo.base import show

from adafv.integrations.vllm import media
from adafv.integrations.vllm.bounded_cache import BoundedCache

IMAGE = 48 * 32 * 4
CLIP = 4 * 48 * 32 * 3
"""Bytes of an image, and of four frames."""


class Budget:
    """Counts bytes as vLLM's budgets do, and refuses those beyond a limit."""

    def __init__(self, limit: int = 10**9, error: type[ValueError] = ValueError) -> None:
        self.limit = limit
        self.error = error
        self.charged: list[int] = []

    def charge(self, count: int) -> None:
        if sum(self.charged) + count > self.limit:
            raise self.error(f"Request media exceed {self.limit} bytes.")
        self.charged.append(count)


class Line:
    """A connection that downloads a file of two chunks, and charges the budget it is given."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def async_get_bytes(self, url: str, request_budget: Any = None, **options: Any) -> bytes:
        half = len(self.data) // 2
        for chunk in (self.data[:half], self.data[half:]):
            request_budget.charge(len(chunk))
        return self.data


@pytest.fixture
def image() -> bytes:
    file = BytesIO()
    show(48, 32).save(file, "PNG")
    return file.getvalue()


def read(kind: str, address: str, connector: media.Connector) -> Any:
    """What vLLM is handed of an image or a video, in a request of its own."""
    media.PIXELS.set([])
    return asyncio.run(getattr(connector, f"fetch_{kind}_async")(address))


def counting(budget: Budget | None) -> media.Connector:
    connector = media.Connector({"video": {"num_frames": 4}})
    connector.decoded_budget = budget
    return connector


def test_an_image_is_charged_whether_it_is_decoded_or_kept(image, monkeypatch):
    monkeypatch.setattr(media, "DECODED", BoundedCache(2**20))
    budget = Budget()
    for _ in range(2):
        read("image", data_url(image), counting(budget))
    assert media.DECODED.used > 0
    assert budget.charged == [IMAGE, IMAGE]


def test_a_clip_is_charged_for_the_frames_it_gives(tmp_path):
    """As many bytes as they have, of eight that the file has."""
    budget = Budget()
    frames, _ = read("video", write(tmp_path / "a.mp4"), counting(budget))
    assert budget.charged == [CLIP] == [frames.nbytes]


def test_a_clip_beyond_the_budget_is_refused_before_it_is_decoded(image, tmp_path, monkeypatch):
    """An image of the same request counts, too; vLLM makes a bad request of the sentence."""
    clip = write(tmp_path / "a.mp4")
    connector = counting(Budget(IMAGE + CLIP - 1))
    read("image", data_url(image), connector)
    monkeypatch.setattr("adafv.models.videos._decoded", pytest.fail)
    with pytest.raises(ValueError, match="exceed"):
        read("video", clip, connector)


def test_an_image_beyond_the_budget_is_refused(image):
    with pytest.raises(ValueError, match=f"exceed {IMAGE - 1} bytes"):
        read("image", data_url(image), counting(Budget(IMAGE - 1)))


def test_without_a_budget_nothing_is_charged(image, tmp_path):
    """As with vLLM 0.32, which has none."""
    read("image", data_url(image), counting(None))
    read("video", write(tmp_path / "a.mp4"), counting(None))


@pytest.mark.skipif(
    "download_budget" not in inspect.signature(MediaConnector).parameters,
    reason="vLLM counts downloads from 0.33 on",
)
@pytest.mark.parametrize("kind", ["image", "video"])
def test_budgets_are_handed_on(kind, image, tmp_path):
    """Both as vLLM hands them to its own reader, of files that are downloaded."""
    write(tmp_path / "a.mp4")
    data = image if kind == "image" else (tmp_path / "a.mp4").read_bytes()
    size = IMAGE if kind == "image" else CLIP
    decoded, downloaded = Budget(), Budget()
    budgets = {"decoded_budget": decoded, "download_budget": downloaded}
    options = {"video": {"num_frames": 4}}
    read(kind, "https://example.org/a", media.Connector(options, Line(data), **budgets))
    assert decoded.charged == [size]
    assert sum(downloaded.charged) == len(data)

    error = connections.MediaRequestDownloadSizeExceededError
    budgets["download_budget"] = Budget(len(data) - 1, error)
    with pytest.raises(VLLMUnprocessableEntityError, match=f"exceed {len(data) - 1} bytes"):
        read(kind, "https://example.org/a", media.Connector(options, Line(data), **budgets))
