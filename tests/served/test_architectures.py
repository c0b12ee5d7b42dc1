"""Every architecture in the table is proven: kept indices and greedy answers are the library's."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import FAMILIES, MARKER, save
from engine import Engine, Library, Request, Said, check_batch, engine, picture
from on_a_cpu import as_on_a_gpu
from stock import ASKED, forget, logprobs, not_compiled, stock
from test_videos_served import read, write
from transformers.image_utils import SizeDict
from wide import MODELS, OF_HUB, STATELESS, as_served, register, save_wide
from zoo.videos import VIDEOS

from adafv.batch.vllm import VLLMEngine
from adafv.core.chat_template import remember
from adafv.families import FAMILIES as KNOWN
from adafv.integrations.vllm import ARCHITECTURES, models
from adafv.models import videos

COLOR, KNIGHT = "what color is the anchor ?", "is there a knight"
APART = " and what color is the anchor there with the one of "
SEVERAL = [
    Request(COLOR),
    Request(KNIGHT, keep=0.6),
    Request(COLOR, (1,), keep=0.1),
    Request(KNIGHT, (2,), method="fastervlm"),
    Request(KNIGHT, (0, 1, 2), between=APART),
    Request(COLOR, (3, 3), keep=0.5, between=APART, method="adafv+"),
    Request(COLOR, keep=1.0),
    Request(COLOR, ()),
]


def tried(name: str, family: str) -> Any:
    """A model to try; two of three with experts, which change nothing here, where engines are."""
    marks = [pytest.mark.engines] if family in ("qwen3_vl_moe", "glm4v_moe") else []
    return pytest.param((name, family), id=f"{name}-{family}", marks=marks)


CHECKPOINTS = {"InternVLChatModel": "internvl_chat"}
"""Of architectures whose family has another one."""
CLIPS = [tried(name, one.family) for name, one in ARCHITECTURES.items() if one.videos]
IMAGES = [
    tried(name, CHECKPOINTS.get(name, one.family))
    for name, one in ARCHITECTURES.items()
    # one whose prompts have no mark of an image takes one: test_image_in_front
    if not one.videos and one.family not in FAMILIES and not one.in_front
]
ALL = [
    *CLIPS,
    *IMAGES,
    tried("LlavaForConditionalGeneration", "pixtral"),
    tried("Gemma4ForConditionalGeneration", "gemma4_both_ways"),
]
"""With those that read clips in front: at the same place in both lists, a model has one engine."""
PLAIN_ROTATION = {"custom_ops": ["-rotary_embedding"]}
"""Where that kernel rotates only some tokens of a language model on a CPU, or takes none."""
OPTIONS = {
    "lfm2_vl": {"compilation_config": PLAIN_ROTATION},
    "kimi_k25": {
        "compilation_config": PLAIN_ROTATION,
        "limit_mm_per_prompt": {"vision_chunk": 4},
    },
    # neither vLLM nor transformers has a class for its configuration
    "internvl_chat": {"trust_remote_code": True},
    # nor does that kernel take what it is handed of this one
    "ernie4_5_vl_moe": {"trust_remote_code": True, "compilation_config": PLAIN_ROTATION},
    # vLLM keeps states with prefixes, of which the tiny models have none
    **{name: {"enable_prefix_caching": False} for name in STATELESS},
    # room for images of several sizes in one step
    "gemma4": {"max_num_batched_tokens": 2048},
    # no image is read in parts, as vLLM makes sure of on a GPU
    "gemma3": {"disable_chunked_mm_input": True},
    "gemma4_both_ways": {
        "disable_chunked_mm_input": True,
        "limit_mm_per_prompt": {"image": 4, "video": 0},
        "long_prefill_token_threshold": 96,
    },
}
"""Of engines."""
BOTH_WAYS = ("gemma3", "gemma4_both_ways")
"""Whose visual tokens see each other."""
ONE_IMAGE = ("video_llama_3",)
"""Whose engine may end in stock vLLM when a prompt has several images."""
TIMES = ("<0.2", "<1.2", "<2.2", "seconds>", "0", "1", "2", "3")
"""What stands between frames, in the vocabulary, so that a wrong one is noticed."""
STRETCHED = "paddleocr_vl"
"""Whose learned positions transformers 5.19 stretches over an image from corner to corner."""

of_clips = pytest.mark.parametrize("both", CLIPS, indirect=True)
of_batches = pytest.mark.parametrize(
    "both", [one for one in CLIPS if not ARCHITECTURES[one.values[0][0]].hub], indirect=True
)
"""A batch reads the format of transformers."""
of_sorted = pytest.mark.parametrize(
    "both", [one for one in IMAGES if ARCHITECTURES[one.values[0][0]].sorts], indirect=True
)
of_stretched = pytest.mark.parametrize(
    "both", [one for one in IMAGES if one.values[0][1] == STRETCHED], indirect=True
)


def save_tiny(family: str, architecture: str, folder: Path) -> None:
    """Save a tiny checkpoint, with its family's processor of videos where they are pruned."""
    if family in FAMILIES:
        save(family, folder)
        return
    if not ARCHITECTURES[architecture].videos:
        MARKER[family] = save_wide(family, architecture, folder)
        return
    prepared = VIDEOS[family]
    module = f"transformers.models.{prepared.module}.video_processing_{prepared.module}"
    # vLLM normalizes clips as images; on the hub both are normalized alike
    images = MODELS[family]().processor.image_processor
    alike = {"image_mean": images.image_mean, "image_std": images.image_std}
    prepare = getattr(importlib.import_module(module), prepared.kind)
    prepared_alike = prepare(**prepared.options | alike)
    MARKER[family] = save_wide(family, architecture, folder, TIMES, prepared_alike)


def positions_of(library: Library) -> Any:
    """The part of PaddleOCR-VL's tower that fits learned positions to an image."""
    return library.model.model.visual.vision_model.embeddings


@pytest.fixture(scope="module", params=ALL)
def both(request, tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    """An engine, which reads prompts in chunks, and the library, of one checkpoint."""
    architecture, family = request.param
    register(architecture)
    folder = tmp_path_factory.mktemp(family)
    save_tiny(family, architecture, folder)
    if family in OF_HUB:
        library = Library(family, folder, backend="pil")
        # its folder is about to change
        remember(library.model, library.processor)
    else:
        library = Library(family, folder)
    if family == STRETCHED:
        # as its authors, vLLM and transformers 5.23 do
        positions_of(library).interpolation_align_corners = False
    MARKER[family] = as_served(family, folder, MARKER[family])
    options = {"long_prefill_token_threshold": 24} | OPTIONS.get(family, {})
    # two clips in a prompt, or one where images have the same placeholder, or none
    clips = 0
    if ARCHITECTURES[architecture].videos:
        clips = 1 if KNOWN[family].video_as_images else 2
        options = options | {"limit_mm_per_prompt": {"image": 4, "video": clips}}
    with (
        as_on_a_gpu(both_ways=family in BOTH_WAYS),
        not_compiled(library.model.get_decoder()),
        engine(family, folder, **options) as made,
    ):
        made.clips = clips
        yield made, library


@pytest.fixture
def kept(monkeypatch) -> dict[str, list[int]]:
    """What was kept of each image that was pruned, by its hash."""
    found: dict[str, list[int]] = {}
    select = models.select

    def noting(specs: Any, *rest: Any, **options: Any) -> Any:
        images = select(specs, *rest, **options)
        for spec, image in zip(specs, images, strict=True):
            if not spec.dense:
                found[spec.hash] = image.kept.tolist()
        return images

    monkeypatch.setattr(models, "select", noting)
    return found


def check(said: list[Said], library: Library, asked: list[Request]) -> list[list[int]]:
    """Compare answers with the library's, and return which indices it keeps."""
    kept = []
    for one, of in zip(said, asked, strict=True):
        expected = library.says(of)
        assert (one.ids, one.length) == (expected.ids, expected.length), of
        kept += expected.kept
    return kept


def test_one_by_one(both, kept):
    """Exactly the library's indices, image by image."""
    made, library = both
    for asked in (Request(KNIGHT, (4,)), Request(COLOR, (5, 6), keep=0.2, between=APART)):
        kept.clear()
        expected = check(made.say(asked), library, [asked])
        assert sorted(kept.values()) == sorted(expected)


def test_in_a_batch(both, kept):
    """Several and equal images, mixed budgets and methods, whole ones and text; then once more,
    from the caches.
    """
    made, library = both
    check(made.say(*SEVERAL), library, SEVERAL)
    assert kept
    check(made.say(*SEVERAL), library, SEVERAL)


def test_keep_1_is_stock_vllm(both):
    """Bit for bit: tokens and logprobs, with a budget of 1 and with none at all."""
    made, _ = both
    asked = [one for one in ASKED if made.family not in ONE_IMAGE or len(one.images) < 2]
    with stock(made):
        assert not hasattr(made.model, "_encoded")
        expected = logprobs(made, plain=True, asked=asked)
    assert logprobs(made, plain=True, asked=asked) == expected
    forget(made)
    assert logprobs(made, plain=False, asked=asked) == expected


def test_the_prefix_cache(both):
    """Whole blocks of a prompt are read from the cache, those of its images too, and right."""
    made, library = both
    asked = Request(COLOR, (7, 8, 9), keep=0.9, between=APART)
    other = Request(f"{COLOR} {KNIGHT}", (7, 8, 9), keep=0.9, between=APART)
    check(made.say(asked), library, [asked])
    [again] = made.say(asked)
    check([again, *made.say(other)], library, [asked, other])
    assert again.cached >= 32 or made.family in STATELESS


@of_sorted
def test_images_of_several_sizes(both, monkeypatch):
    """Each has the saliency of its own patches, though vLLM sorts them before the tower runs."""
    made, library = both
    asked = [Request(KNIGHT, (number,)) for number in (20, 21, 22)]
    requests = [made.request(one) for one in asked]
    requests[1]["mm_processor_kwargs"] = asked[1].options | {"max_soft_tokens": 140}
    said = made.answer(requests)
    check(said[::2], library, asked[::2])
    monkeypatch.setattr(library.processor.image_processor, "max_soft_tokens", 140)
    check(said[1:2], library, asked[1:2])


@of_stretched
def test_an_image_of_as_many_patches_as_learned_positions(both, kept, monkeypatch):
    """Nothing is stretched: kept indices and answers are those of transformers as it is."""
    made, library = both
    monkeypatch.setattr(positions_of(library), "interpolation_align_corners", True)
    size = {"shortest_edge": 8 * 8, "longest_edge": 24 * 24}
    monkeypatch.setattr(library.processor.image_processor, "size", SizeDict(**size))
    for asked in (Request(KNIGHT, (12,)), Request(COLOR, (16, 20), keep=0.5, between=APART)):
        kept.clear()
        request = made.request(asked)
        request["mm_processor_kwargs"] |= {"size": size}
        expected = check(made.answer([request]), library, [asked])
        assert sorted(kept.values()) == sorted(expected)


def readable(made: Engine, *asked: Request) -> list[Request]:
    """Return the questions that a model takes: GLM reads one clip, and no image beside it."""
    return [one for one in asked if len(one.clips) + bool(one.images) <= made.clips]


@of_clips
def test_clips_one_by_one(both, kept):
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


@of_clips
def test_clips_in_a_batch(both, kept):
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


@of_clips
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


@of_clips
def test_clips_whole_are_stock_vllm(both):
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


@of_clips
def test_clips_in_the_prefix_cache(both):
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
    assert again.cached >= 32 or made.family in STATELESS


@of_clips
def test_clips_that_are_refused(both, monkeypatch):
    """In one sentence, and the engine goes on."""
    made, library = both
    if made.clips == 1:
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
    # not every model has one of its images with Pillow, and code of the hub has its own
    if made.clips and made.family not in OF_HUB:
        assert type(processor.image_processor).__name__.endswith("Pil")
        assert type(processor.video_processor) is type(info.get_hf_processor().video_processor)


@of_clips
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


@of_batches
def test_a_batch_of_clips(both, tmp_path):
    """`adafv batch` answers, and counts what was read of each, as with transformers."""
    made, library = both
    write(tmp_path / "a.mp4")
    picture(0).save(tmp_path / "b.png")
    (tmp_path / "none.mp4").write_bytes(b"")
    lines = [
        {"video": "a.mp4", "question": COLOR},
        {"video": "a.mp4", "question": KNIGHT, "keep": 1, "frames": 4},
        {"video": "a.mp4", "question": KNIGHT, "method": "fastervlm"},
        {"image": "b.png", "question": COLOR},
        {"video": "none.mp4", "question": COLOR},
    ]
    on_vllm = VLLMEngine(str(library.folder), "float32")
    *_, empty = check_batch(lines, tmp_path, on_vllm, made, library)
    assert "is empty" in empty["error"]
