"""ERNIE 4.5 VL: its prompts are read as transformers', and its experts chosen as there."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

import ernie
from checkpoints import MARKER
from engine import Engine, Library, Request, engine
from pairs import OPTIONS, check, save_tiny
from torch import Tensor
from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY
from wide import as_served, register
from zoo.base import show

from adafv.core.chat_template import remember, template_of
from adafv.core.inputs import placeholders, video_bounds
from adafv.core.prompt import Prompt
from adafv.integrations.vllm.processor import Pruned
from adafv.models.boilerplate import boilerplate

FAMILY, ARCHITECTURE = "ernie4_5_vl_moe", "Ernie4_5_VLMoeForConditionalGeneration"
COLOR, KNIGHT = "what color is the anchor ?", "is there a knight"
CHUNK = 24
"""Of a prompt that is read in one step."""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Library:
    register(ARCHITECTURE)
    folder = tmp_path_factory.mktemp(FAMILY)
    save_tiny(FAMILY, ARCHITECTURE, folder)
    library = Library(FAMILY, folder, backend="pil")
    remember(library.model, library.processor)
    MARKER[FAMILY] = as_served(FAMILY, folder, MARKER[FAMILY])
    return library


@pytest.fixture(scope="module")
def made(library) -> Iterator[Engine]:
    options = OPTIONS[FAMILY] | {"limit_mm_per_prompt": {"image": 4, "video": 1}}
    with engine(FAMILY, library.folder, long_prefill_token_threshold=CHUNK, **options) as made:
        yield made


@pytest.fixture
def processor(library) -> Callable[..., Pruned]:
    """The processor of a server with some options."""

    def made(**options: Any) -> Pruned:
        folder = str(library.folder)
        config = ModelConfig(
            folder, trust_remote_code=True, mm_processor_kwargs=options, max_model_len=512
        )
        return MULTIMODAL_REGISTRY.create_processor(config)

    return made


def tools() -> Any:
    """The processor of transformers, with the same chat template."""
    found = ernie.ernie4_5_vl_moe().processor
    found.chat_template = ernie.CHAT.replace("image@placeholder", "IMAGE_PLACEHOLDER").replace(
        "video@placeholder", "AUDIO_PLACEHOLDER"
    )
    return found


def test_the_question_is_what_transformers_prompt_says(processor):
    """Of an image and a clip, whose marks are texts of several tokens."""
    found = processor().questions
    tokens = found.info.get_tokenizer()
    text = "USER : {} what color {} is the anchor ? ASSISTANT :"
    ids = tokens.encode(text.format(ernie.MARKER_ON_THE_HUB, ernie.VIDEO_MARKER_ON_THE_HUB))
    questions = found.in_prompt(ids, {"image": 1, "video": 1}, "turn", frozenset())

    of_transformers = tools()
    config = ernie.ernie4_5_vl_moe().model.config
    written = of_transformers.tokenizer(
        [text.format(ernie.MARKER, ernie.VIDEO_MARKER)], return_tensors="pt"
    )
    prompt = Prompt(
        written,
        placeholders(config),
        FAMILY,
        template_of(of_transformers),
        bounds=video_bounds(config),
    )
    for modality in ("image", "video"):
        [span] = prompt.spans([1], modality)
        expected = tuple(prompt.ids[0, prompt.question(span)].tolist())
        assert questions[modality] == [expected]
        assert expected


def test_what_a_person_types_stands_for_no_image(processor):
    """The texts of several tokens, too."""
    typed = {"<|IMAGE_PLACEHOLDER|>", "<|image@placeholder|>", "<|video@placeholder|>"}
    assert typed <= set(processor().questions.typed)


def test_function_words_are_skipped_as_in_the_library(processor):
    """Its chat template is the tokenizer's, and takes messages in parts."""
    questions, of_transformers = processor().questions, tools()
    assert questions.template_ids == boilerplate(of_transformers)
    assert questions.chat_template.users == template_of(of_transformers).users
    assert questions.chat_template.answers == template_of(of_transformers).answers


def test_the_backend_that_a_server_asks_for(processor):
    """The hub's code has Pillow alone."""
    images = processor(backend="pil", adafv_keep=0.5).info.get_hf_processor().image_processor
    patches, grid = images.patches(torch.tensor(show(24, 16).getdata()).view(1, 16, 24, 3).numpy())
    assert (patches.shape, grid) == (torch.Size([24, 48]), [1, 4, 6])


@pytest.fixture
def steps(made, monkeypatch) -> list[tuple[Tensor, Tensor | None]]:
    """The ids of each step, and which of them experts take for visual; None: none of them."""
    found: list[tuple[Tensor, Tensor | None]] = []
    embed, decoder = made.model.embed_input_ids, made.model.language_model.model
    forward = decoder.forward

    def embedded(ids: Tensor, *rest: Any, **options: Any) -> Tensor:
        found.append((ids.clone(), None))
        return embed(ids, *rest, **options)

    def forwarded(*args: Any, visual_token_mask: Tensor | None = None, **options: Any) -> Any:
        found[-1] = (found[-1][0], visual_token_mask)
        return forward(*args, visual_token_mask=visual_token_mask, **options)

    monkeypatch.setattr(made.model, "embed_input_ids", embedded)
    monkeypatch.setattr(decoder, "forward", forwarded)
    return found


def check_routed(steps: list[tuple[Tensor, Tensor | None]], library: Library) -> set[int]:
    """Assert that marks and visual tokens are read by visual experts, and no others.

    Returns:
        Marks that a step held without a visual token.
    """
    config = library.model.config
    image, marks = config.image_token_id, {config.image_start_token_id, config.image_end_token_id}
    alone = set()
    for ids, mask in steps:
        expected = torch.isin(ids, torch.tensor([image, *marks]))
        found = torch.zeros_like(expected) if mask is None else mask[:, 0]
        assert torch.equal(found, expected)
        if image not in ids:
            alone |= marks & set(ids.tolist())
    steps.clear()
    return alone


@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_marks_in_a_step_of_their_own(made, library, steps, keep):
    """Wherever chunks end: before the mark that closes an image, or behind that which opens it."""
    # vLLM reads a prompt in chunks where others want to be read, too
    other = Request(COLOR, ())
    alone = set()
    for shift in range(CHUNK):
        asked = Request(KNIGHT, (shift % 4,), keep=keep, before="red " * shift)
        made.llm.reset_prefix_cache()
        check(made.say(other, asked), library, [other, asked])
        alone |= check_routed(steps, library)
    assert len(alone) == 2


def test_a_mark_behind_a_cached_prefix(made, library, steps):
    """Whatever the cache holds of a prompt, the same image and another question."""
    alone = set()
    for shift in range(32):
        for question in (COLOR, KNIGHT):
            asked = Request(question, (1,), method="fastervlm", before="blue " * shift)
            check(made.say(asked), library, [asked])
            alone |= check_routed(steps, library)
    assert alone


@pytest.mark.parametrize("options", [{"adafv_keep": 0.3}, {"adafv_keep": 1.0}, {}])
@pytest.mark.parametrize("count", [1, 3])
def test_an_odd_number_of_frames(made, library, count, options):
    """Refused in a sentence whatever is kept, and the engine goes on, which in vLLM ends."""
    asked = Request(COLOR, (), clips=(0,))
    request = made.request(asked)
    [(frames, metadata)] = request["multi_modal_data"]["video"]
    odd = {"multi_modal_data": {"video": [(frames[:count], metadata)]}}
    with pytest.raises(ValueError, match=f"has {count} frames, of which ERNIE 4.5 VL merges 2"):
        made.answer([request | odd | {"mm_processor_kwargs": options}])
    check(made.say(asked), library, [asked])
