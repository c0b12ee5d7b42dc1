"""Another question about an image decodes and prepares nothing again, and reads the same."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

import torch
from checkpoints import MARKER, save
from engine import picture
from PIL import Image, PngImagePlugin

from adafv.integrations.vllm import media
from adafv.integrations.vllm.bounded_cache import BoundedCache
from adafv.integrations.vllm.media import RequestImage
from adafv.integrations.vllm.prune_spec import FIELD

WORDS = ("what color is the anchor ?", "is there a knight ?")
TINY = 64 * 2**20


def png(seed: int = 0, size: tuple[int, int] = (64, 48), note: str = "") -> bytes:
    """A PNG of noise, with a text beside its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    info = PngImagePlugin.PngInfo()
    info.add_text("note", note)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """A cache of decoded images of its own, and the files that are decoded meanwhile."""
    monkeypatch.setattr(media, "DECODED", BoundedCache(TINY))
    files: list[bytes] = []
    decode = RequestImage._decode
    monkeypatch.setattr(
        RequestImage, "_decode", lambda self, data: (files.append(data), decode(self, data))[1]
    )
    return files


def read(data: bytes, pixels: list[int] | None = None, **options: Any) -> Any:
    text = base64.b64encode(data).decode()
    return RequestImage("the image", pixels, **options).load_base64("image/png", text)


def test_an_image_is_decoded_once(decoded):
    """It counts among a request's pixels each time, and vLLM hashes the same bytes."""
    first, second = [], []
    one, two = read(png(), first), read(png(), second)
    assert decoded == [png()]
    assert first == second == [64 * 48]
    assert one.original_bytes == two.original_bytes == png()
    assert np.array_equal(np.asarray(one.media), np.asarray(two.media))
    read(png(1))
    assert len(decoded) == 2


def test_without_a_cache_the_same_pixels(decoded, monkeypatch):
    kept = read(png()).media
    monkeypatch.setattr(media, "DECODED", BoundedCache(0))
    plain = [read(png()).media for _ in range(2)]
    assert len(decoded) == 3
    assert all(np.array_equal(np.asarray(kept), np.asarray(image)) for image in plain)


def test_what_is_no_image_is_not_kept(decoded):
    broken = png()[:-40]
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be read as an image"):
            read(broken)
    assert decoded == [broken] * 2
    assert media.DECODED.used == 0


def test_too_many_pixels_are_too_many_of_an_image_that_is_kept(decoded, monkeypatch):
    """A request may not show one again and again."""
    monkeypatch.setattr(media, "MAX_PIXELS", 3 * 64 * 48)
    pixels: list[int] = []
    for _ in range(3):
        read(png(), pixels)
    with pytest.raises(ValueError, match="more than"):
        read(png(), pixels)


def test_another_mode_is_decoded_for_itself(decoded):
    assert read(png(), image_mode="L").media.mode == "L"
    assert read(png()).media.mode == "RGB"
    assert read(png(), image_mode="L").media.mode == "L"
    assert len(decoded) == 3


def test_nothing_but_pixels_is_kept(decoded):
    """A file may hold megabytes of text, which nobody has counted."""
    image = read(png(note="words " * 10_000)).media
    assert not image.info
    assert type(image) is Image.Image


def test_decoded_images_in_bounded_memory(decoded, monkeypatch):
    """Whatever clients send: many images, one that is larger than the memory, tiny ones."""
    cache: BoundedCache[Image.Image] = BoundedCache(100_000)
    monkeypatch.setattr(media, "DECODED", cache)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: read(png(seed % 40, (1 + seed % 90, 50))), range(300)))
    assert 0 < cache.used <= cache.bytes
    used = cache.used
    read(png(0, (300, 300)))
    assert cache.used == used
    for seed in range(100):
        read(png(seed, (1, 1)))
    assert len(cache._kept) < 30


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def served(request, tmp_path_factory) -> tuple[str, Path]:
    """A family and a checkpoint: images in a batch, and images as patches one after another."""
    return request.param, save(request.param, tmp_path_factory.mktemp(request.param))


def processor(served: tuple[str, Path], **server: Any) -> tuple[Any, list[int]]:
    """A processor as vLLM makes it, and how many images each run of the model's own one had."""
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    _, folder = served
    config = ModelConfig(
        str(folder), dtype="float32", max_model_len=1024, mm_processor_kwargs=server
    )
    made = MULTIMODAL_REGISTRY.create_processor(config)
    runs: list[int] = []
    call = made._call_hf_processor

    def counted(data: Any, options: Any) -> Any:
        runs.append(len(data["images"]))
        return call(data, options)

    made._call_hf_processor = counted
    return made, runs


def prepare(made: Any, family: str, words: str, *numbers: int, **options: Any) -> Any:
    """What vLLM sends to the engine for a question on images."""
    prompt = f"USER : {' '.join([MARKER[family]] * len(numbers))} {words} ASSISTANT :"
    items = made.info.parse_mm_data({"image": [picture(i) for i in numbers]})
    return made(prompt, items, hf_processor_mm_kwargs={"adafv_keep": 0.3, **options})


def same(one: Any, other: Any) -> bool:
    """Whether the engine gets the same."""
    names = ("prompt_token_ids", "mm_hashes", "mm_placeholders")
    if any(one[name] != other[name] for name in names):
        return False
    return one["mm_kwargs"]["image"] == other["mm_kwargs"]["image"]


def test_an_image_is_prepared_once(served):
    """Of two questions, and with two images of which one is new; what is sent is the same."""
    family, _ = served
    made, runs = processor(served)
    plain, stock = processor(served, adafv_image_cache_mb=0)
    asked = [(WORDS[0], 0), (WORDS[1], 0), (WORDS[0], 1, 0, 2), (WORDS[1], 2, 2, 1)]
    for words, *numbers in asked:
        one, other = (prepare(x, family, words, *numbers) for x in (made, plain))
        assert same(one, other)
        assert [FIELD in item for item in one["mm_kwargs"]["image"]] == [True] * len(numbers)
    assert runs == [1, 2]
    assert stock == [1, 1, 3, 3]
    # each has the hash of its words
    hashes = [prepare(made, family, words, 0)["mm_hashes"]["image"][0] for words in WORDS]
    assert hashes[0] != hashes[1]


def test_other_options_of_the_processor_prepare_anew(served):
    family, _ = served
    made, runs = processor(served)
    options = {"max_pixels": 32 * 32, "min_pixels": 64}
    if family == "llava":
        options = {"do_rescale": False}
    found = [prepare(made, family, words, 0, **one) for words in WORDS for one in ({}, options)]
    assert runs == [1, 1]
    pixels = [x["mm_kwargs"]["image"][0]["pixel_values"].data for x in found]
    for i in (0, 1):
        assert torch.equal(pixels[i], pixels[i + 2])
    assert pixels[0].shape != pixels[1].shape or not torch.equal(pixels[0], pixels[1])


def test_prepared_images_in_bounded_memory(served):
    """One of a batch is kept without the memory of the others; whole images are vLLM's to keep."""
    family, _ = served
    made, _ = processor(served, adafv_image_cache_mb=1)
    for first in range(0, 64, 4):
        prepare(made, family, WORDS[0], *range(first, first + 4))
    kept = made.prepared
    assert 0 < kept.used <= kept.bytes == 2**19
    held = 0
    for item, _ in kept._kept.values():
        held += sum(x.untyped_storage().nbytes() for x in item.get_data().values())
    assert held <= kept.used
    used = kept.used
    prepare(made, family, WORDS[0], 99, adafv_keep=1)
    assert kept.used == used
