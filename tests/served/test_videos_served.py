"""Clips on vLLM: kept indices and greedy answers are the library's, one engine an architecture."""

import asyncio
import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import FAMILIES, MARKER, save
from engine import Engine, Library, Request, engine
from server import data_url
from stock import logprobs
from test_architectures import APART, COLOR, KNIGHT, check, forget, kept, stock
from wide import MODELS, register, save_wide
from zoo.base import show
from zoo.videos import VIDEOS

from adafv.families import FAMILIES as KNOWN
from adafv.integrations.vllm import ARCHITECTURES, media
from adafv.models import videos

__all__ = ["kept"]  # a fixture

PRUNED = {name: one.family for name, one in ARCHITECTURES.items() if one.videos}
TIMES = ("<0.2", "<1.2", "<2.2", "seconds>", "0", "1", "2", "3")
"""What stands between frames, in the vocabulary, so that a wrong one is noticed."""


def save_with_videos(family: str, architecture: str, folder: Path) -> None:
    """Save a tiny checkpoint with its family's processor of videos."""
    if family in FAMILIES:
        save(family, folder)
        return
    prepared = VIDEOS[family]
    module = f"transformers.models.{prepared.module}.video_processing_{prepared.module}"
    # vLLM normalizes clips as images; on the hub both are normalized alike
    images = MODELS[family]().processor.image_processor
    alike = {"image_mean": images.image_mean, "image_std": images.image_std}
    videos = getattr(importlib.import_module(module), prepared.kind)(**prepared.options | alike)
    MARKER[family] = save_wide(family, architecture, folder, TIMES, videos)


@pytest.fixture(scope="module", params=PRUNED.items(), ids="-".join)
def both(request, tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    """An engine, which reads prompts in chunks, and the library, of one checkpoint."""
    architecture, family = request.param
    register(architecture)
    folder = tmp_path_factory.mktemp(family)
    save_with_videos(family, architecture, folder)
    library = Library(family, folder)
    clips = 1 if KNOWN[family].video_as_images else 2
    limits = {"image": 2, "video": clips}
    options = dict(long_prefill_token_threshold=24, limit_mm_per_prompt=limits)
    with engine(family, folder, **options) as made:
        made.clips = clips
        yield made, library


def readable(made: Engine, *asked: Request) -> list[Request]:
    """Return the questions that a model takes: GLM reads one clip, and no image beside it."""
    return [one for one in asked if len(one.clips) + bool(one.images) <= made.clips]


def test_one_by_one(both, kept):
    """Exactly the library's indices: a clip, two of them, and an image beside one."""
    made, library = both
    for asked in readable(
        made,
        Request(KNIGHT, (), clips=(1,)),
        Request(COLOR, (), keep=0.2, between=APART, clips=(3, 4)),
        Request(KNIGHT, (5,), keep=0.4, between=APART, clips=(6,)),
    ):
        kept.clear()
        expected = check(made.say(asked), library, [asked])
        assert sorted(kept.values()) == sorted(expected)


def test_in_a_batch(both, kept):
    """Clips of several lengths and beside images, mixed budgets and methods, whole ones and text;
    then once more, from the caches.
    """
    made, library = both
    asked = readable(
        made,
        Request(COLOR, (), clips=(0,)),
        Request(KNIGHT, (), keep=0.6, clips=(0,)),
        Request(COLOR, (), keep=0.1, clips=(2,)),
        Request(KNIGHT, (), clips=(1,), method="fastervlm"),
        Request(COLOR, (), keep=0.5, clips=(0, 1), between=APART, method="adafv+"),
        Request(KNIGHT, (0,), clips=(1,), between=APART),
        Request(COLOR, (), keep=1.0, clips=(2,)),
        Request(COLOR, (), keep=1.0, clips=(1,)),
        Request(COLOR, (0, 1), between=APART),
        Request(COLOR, ()),
    )
    said = made.say(*asked)
    check(said, library, asked)
    assert kept
    again = made.say(*asked)
    assert [(one.ids, one.length) for one in again] == [(one.ids, one.length) for one in said]


def test_a_clip_that_stands_still(both, kept):
    """What repeats the frame before is not chosen while there is anything else; on vLLM it counts
    for the budget, since the prompt is written before a tower has seen the frames.
    """
    made, library = both
    asked = Request(COLOR, (), keep=0.2, clips=(100,))
    [said] = made.say(asked)
    [chosen] = kept.values()
    expected = library.says(asked, tokens=len(chosen))
    assert (said.ids, said.length) == (expected.ids, expected.length)
    assert [chosen] == expected.kept

    # there are fewer others than tokens to keep
    kept.clear()
    made.say(Request(COLOR, (), keep=0.9, clips=(100,)))
    [chosen] = kept.values()
    assert chosen == list(range(len(chosen)))


def test_keep_1_is_stock_vllm(both):
    """Bit for bit: tokens and logprobs, with a budget of 1 and with none at all."""
    made, _ = both
    asked = [Request(COLOR, (), keep=1.0, clips=(7,))]
    asked += readable(made, Request(KNIGHT, (9,), keep=1.0, clips=(8,)))
    with stock(made):
        assert not hasattr(made.model, "_encoded")
        expected = logprobs(made, plain=True, asked=asked)
    assert logprobs(made, plain=True, asked=asked) == expected
    forget(made)
    assert logprobs(made, plain=False, asked=asked) == expected


def test_the_prefix_cache(both):
    """Whole blocks of a prompt are read from the cache, those of its clip too, and right; another
    question or another budget is another clip.
    """
    made, library = both
    asked = Request(COLOR, (), keep=0.9, clips=(11,))
    others = [Request(f"{COLOR} {KNIGHT}", (), keep=0.9, clips=(11,))]
    others += [Request(COLOR, (), keep=0.8, clips=(11,))]
    check(made.say(asked), library, [asked])
    [again] = made.say(asked)
    check([again, *made.say(*others)], library, [asked, *others])
    assert again.cached >= 32


def test_what_is_refused(both, monkeypatch):
    """In one sentence, and the engine goes on."""
    made, library = both
    if made.family == "glm4v":
        with pytest.raises(ValueError, match="one placeholder for both images and videos"):
            made.say(Request(COLOR, (0,), clips=(0,)))
    processor = made.llm.llm_engine.renderer.mm_processor
    asked = Request(COLOR, (), clips=(0,))

    monkeypatch.setattr(processor, "architecture", replace(processor.architecture, videos=False))
    with pytest.raises(ValueError, match="videos are not pruned on vLLM: pass adafv_keep=1"):
        made.say(asked)
    monkeypatch.undo()

    # more tokens than memory was measured with
    forget(made)
    monkeypatch.setattr(processor, "largest", 20)
    with pytest.raises(ValueError, match="more than the 20 for which memory is measured"):
        made.say(asked)
    monkeypatch.undo()
    assert processor.largest <= 1024
    check(made.say(asked), library, [asked])


def test_the_processor_that_a_server_asks_for(both):
    """`adafv serve` wants Pillow for images, which transformers has no processor of videos for."""
    made, _ = both
    info = made.llm.llm_engine.renderer.mm_processor.info
    processor = info.get_hf_processor(backend="pil")
    assert type(processor.image_processor).__name__.endswith("Pil")
    assert type(processor.video_processor) is type(info.get_hf_processor().video_processor)


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


def test_a_video_of_a_request(both, tmp_path):
    """Its frames are the library's, spread evenly, with their times."""
    made, library = both
    address = write(tmp_path / "a.mp4")
    expected = videos.open_video(tmp_path / "a.mp4", 4)
    (frames, metadata) = read(address).media
    np.testing.assert_array_equal(frames, expected.frames)
    assert metadata.items() >= expected.metadata.items()

    asked = Request(COLOR, (), clips=(0,))
    request = made.request(asked) | {"multi_modal_data": {"video": [read(address)]}}
    [said] = made.answer([request])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.clip", lambda number: expected)
        check([said], library, [asked])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (data_url(b"GIF89a" + bytes(99), "video/mp4"), "the video is a GIF"),
        (data_url(bytes(500), "video/mp4"), "the video begins as no format of clips"),
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
    with pytest.raises(ValueError, match=r"the video (is cut off|cannot be read as a clip)"):
        read(data_url(content[:-200], "video/mp4"))
    with pytest.raises(ValueError, match="frames=65 of a clip are not possible"):
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
