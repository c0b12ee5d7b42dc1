"""Kimi K2.5, whose images and clips vLLM takes alike: images are pruned, clips are refused."""

from collections.abc import Iterator

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import MARKER
from engine import ANSWER, Engine, Library, Request, check_batch, chunk, engine, picture
from pairs import OPTIONS, check
from server import data_url
from stock import forget, logprobs, stock
from test_videos_served import write
from wide import as_served, register, save_wide

from adafv.batch.vllm import VLLMEngine
from adafv.core.chat_template import remember, template_of
from adafv.models.boilerplate import boilerplate

FAMILY, ARCHITECTURE = "kimi_k25", "KimiK25ForConditionalGeneration"
COLOR = "what color is the anchor ?"


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    register(ARCHITECTURE)
    folder = tmp_path_factory.mktemp(FAMILY)
    MARKER[FAMILY] = save_wide(FAMILY, ARCHITECTURE, folder)
    library = Library(FAMILY, folder)
    # its folder is about to change
    remember(library.model, library.processor)
    as_served(FAMILY, folder, MARKER[FAMILY])
    with engine(FAMILY, folder, **OPTIONS[FAMILY]) as made:
        yield made, library


def of_clip(made: Engine, keep: float, *before: dict) -> dict:
    """A question about a chunk of a clip, with images before it."""
    frames = [picture(number) for number in (0, 4)]
    shown = [*before, {"type": "video_chunk", "video_chunk": frames, "uuid": None}]
    return {
        "prompt": Request(COLOR, tuple(range(len(shown)))).prompt(FAMILY),
        "multi_modal_data": {"vision_chunk": shown},
        "mm_processor_kwargs": {"adafv_keep": keep},
    }


def test_chunks_of_clips_are_refused(both):
    """In one sentence, alone and beside an image, and the engine goes on."""
    made, library = both
    for before in ((), (chunk(picture(1)),)):
        with pytest.raises(ValueError, match="videos are not pruned on vLLM: pass adafv_keep=1"):
            made.answer([of_clip(made, 0.5, *before)])
    asked = Request(COLOR, (2,))
    check(made.say(asked), library, [asked])


def test_whole_clips_are_stock_vllm(both, monkeypatch):
    """Bit for bit, in a batch with images that are pruned."""
    made, library = both
    asked = Request(COLOR, (1,))
    clip = of_clip(made, 1.0, chunk(picture(1)))
    said, whole = made.answer([made.request(asked), clip])
    check([said], library, [asked])
    monkeypatch.setattr(made, "request", lambda asked: dict(clip))
    with stock(made):
        expected = logprobs(made, plain=True, asked=[asked])
    assert logprobs(made, plain=False, asked=[asked]) == expected
    forget(made)
    assert logprobs(made, plain=False, asked=[asked]) == expected
    assert len(whole.ids) == len(expected[0][2])


def test_a_chat(both, tmp_path):
    """Images come as parts of a message; a name that a client gives two of them tells nothing."""
    from vllm import SamplingParams

    made, library = both
    asked = Request(COLOR, (5, 6))
    expected = library.says(asked)
    greedy = SamplingParams(temperature=0, max_tokens=ANSWER, ignore_eos=True)
    for names in ({}, {"uuid": "a"}):
        content: list[dict] = []
        for number in asked.images:
            picture(number).save(tmp_path / "a.png")
            url = data_url((tmp_path / "a.png").read_bytes())
            content.append({"type": "image_url", "image_url": {"url": url}, **names})
        content.append({"type": "text", "text": COLOR})
        [output] = made.llm.chat(
            [{"role": "user", "content": content}],
            greedy,
            use_tqdm=False,
            mm_processor_kwargs=asked.options,
        )
        assert list(output.outputs[0].token_ids) == expected.ids
        assert len(output.prompt_token_ids) == expected.length


def test_a_clip_in_a_chat_is_refused(both, tmp_path):
    """In one sentence, also where nothing is to be pruned: vLLM would fail with an assertion."""
    made, _ = both
    url = write(tmp_path / "a.mp4")
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": COLOR}]
    for keep in (0.5, 1.0):
        with pytest.raises(ValueError, match="does not cut the videos of a chat into chunks"):
            made.llm.chat(
                [{"role": "user", "content": content}],
                use_tqdm=False,
                mm_processor_kwargs={"adafv_keep": keep},
            )


def test_a_batch(both, tmp_path):
    """`adafv batch` hands images over as vLLM takes them, and counts as with transformers."""
    made, library = both
    picture(0).save(tmp_path / "a.png")
    lines = [{"image": "a.png", "question": COLOR, "keep": keep} for keep in (0.3, 1)]
    on_vllm = VLLMEngine(str(library.folder), "float32")
    assert on_vllm.options["limit_mm_per_prompt"] == {"vision_chunk": 1}
    # transformers reads the sizes of images elsewhere
    on_vllm.requests.processor = library.processor
    pruned, whole = check_batch(lines, tmp_path, on_vllm, made, library)
    assert pruned["kept_tokens"] < whole["kept_tokens"]


def test_the_template_is_the_tokenizers(both):
    """The processor of vLLM has none; function words and turns are the library's."""
    made, library = both
    questions = made.llm.llm_engine.renderer.mm_processor.questions
    assert questions.template_ids == boilerplate(library.processor)
    assert questions.chat_template.users == template_of(library.processor).users
    assert questions.chat_template.answers == template_of(library.processor).answers


def test_what_a_person_types_stands_for_no_image(both, monkeypatch):
    """Where a vocabulary lacks the token for clips, there is no such token to type."""
    made, _ = both
    questions = made.llm.llm_engine.renderer.mm_processor.questions
    names = {"<|media_pad|>", "<|kimi_k25_video_placeholder|>"}
    assert set(questions.typed) == names
    monkeypatch.setattr(questions.config, "video_token_id", 163840)
    assert set(questions.typed) == {"<|media_pad|>"}
