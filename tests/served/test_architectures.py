"""Every architecture in the table is proven: kept indices and greedy answers are the library's."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import FAMILIES
from engine import Engine, Library, Request, check_batch, picture
from pairs import (
    APART,
    BOTH_WAYS,
    COLOR,
    KNIGHT,
    SEVERAL,
    STRETCHED,
    check,
    noted,
    pair,
    positions_of,
)
from stock import ASKED, forget, logprobs, stock
from test_videos_served import read, write
from transformers.image_utils import SizeDict
from wide import OF_HUB, STATELESS

from adafv.batch.vllm import VLLMEngine
from adafv.integrations.vllm import ARCHITECTURES
from adafv.models import videos

ALIKE = (
    *("qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe", "glm46v", "idefics3"),
    *("vipllava", "hyperclovax_vision_v2"),
)
"""With experts, which change nothing here, with vLLM's classes of another one, or on modules of
transformers as others are.
"""


def tried(name: str, family: str) -> Any:
    """A model to try; of those that are alike some in the lane of engines alone."""
    marks = [pytest.mark.engines] if family in ALIKE else []
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
    tried("LlavaNextForConditionalGeneration", "llava_next"),
    tried("Gemma4ForConditionalGeneration", "gemma4_both_ways"),
]
"""With those that read clips in front: at the same place in both lists, a model has one engine."""
ONE_IMAGE = ("video_llama_3",)
"""Whose engine may end in stock vLLM when a prompt has several images."""

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


@pytest.fixture(scope="module", params=ALL)
def both(request, tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    """An engine, which cuts prompts that are not alone into chunks, and the library."""
    architecture, family = request.param
    folder = tmp_path_factory.mktemp(family)
    with pair(architecture, family, folder, long_prefill_token_threshold=24) as made:
        yield made


@pytest.fixture
def kept() -> Iterator[dict[str, list[int]]]:
    """What was kept of each image that was pruned, by its hash."""
    with noted() as found:
        yield found


@pytest.mark.proves("indices")
def test_one_by_one(both, kept):
    """Exactly the library's indices."""
    made, library = both
    for asked in (Request(KNIGHT, (4,)), Request(COLOR, (5,), keep=0.2)):
        kept.clear()
        expected = check(made.say(asked), library, [asked])
        assert list(kept.values()) == expected


@pytest.mark.proves("images")
def test_several_images(both, kept):
    """Exactly the library's indices, image by image."""
    made, library = both
    asked = Request(COLOR, (5, 6), keep=0.2, between=APART)
    expected = check(made.say(asked), library, [asked])
    assert sorted(kept.values()) == sorted(expected)


@pytest.mark.proves("chunks")
def test_a_prompt_in_chunks(both, monkeypatch):
    """Steps end within images, or between them where vLLM reads them whole."""
    made, library = both
    scheduler = made.llm.llm_engine.engine_core.engine_core.scheduler
    schedule = scheduler.schedule
    steps = []

    def noting(*args: Any, **options: Any) -> Any:
        steps.append(schedule(*args, **options))
        return steps[-1]

    monkeypatch.setattr(scheduler, "schedule", noting)
    # vLLM cuts no prompt that is alone
    asked = [
        Request(question, (13, 14, 15), keep=0.9, between=APART) for question in (COLOR, KNIGHT)
    ]
    check(made.say(*asked), library, asked)

    cut = []
    for new in [one for step in steps for one in step.scheduled_new_reqs]:
        lengths = [step.num_scheduled_tokens.get(new.req_id, 0) for step in steps]
        ends = [end for end in accumulate(lengths) if end < len(new.prompt_token_ids)]
        assert ends
        for feature in new.mm_features:
            start, length = feature.mm_position.offset, feature.mm_position.length
            cut += [end for end in ends if start < end < start + length]
    assert bool(cut) == (made.family not in BOTH_WAYS)


@pytest.mark.proves("batch")
def test_in_a_batch(both, kept):
    """Several and equal images, mixed budgets and methods, whole ones and text; then once more,
    from the caches.
    """
    made, library = both
    check(made.say(*SEVERAL), library, SEVERAL)
    assert kept
    check(made.say(*SEVERAL), library, SEVERAL)


@pytest.mark.proves("identity")
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


@pytest.mark.proves("prefix")
def test_the_prefix_cache(both):
    """Whole blocks of a prompt are read from the cache, those of its images too, and right."""
    made, library = both
    asked = Request(COLOR, (7, 8, 9), keep=0.9, between=APART)
    other = Request(f"{COLOR} {KNIGHT}", (7, 8, 9), keep=0.9, between=APART)
    check(made.say(asked), library, [asked])
    [again] = made.say(asked)
    check([again, *made.say(other)], library, [asked, other])
    if made.family in STATELESS:
        pytest.skip("has no prefix cache here")
    assert again.cached >= 32


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
@pytest.mark.proves("clips")
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
@pytest.mark.proves("clips")
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
@pytest.mark.proves("clips")
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
@pytest.mark.proves("clips")
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
@pytest.mark.proves("clips")
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
