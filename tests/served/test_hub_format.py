"""Models in the hub's own format: their prompts are read as in transformers', or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

import hub
from transformers import AutoTokenizer
from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY
from wide import as_served, register, save_wide
from zoo.base import show

from adafv.core.chat_template import template_of
from adafv.core.prompt import Prompt
from adafv.integrations.vllm.item_checks import check_tiles
from adafv.integrations.vllm.processor import Pruned
from adafv.models.boilerplate import boilerplate

COUNTS = {"image": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("internvl_chat")
    register("InternVLChatModel")
    as_served("internvl_chat", found, save_wide("internvl_chat", "InternVLChatModel", found))
    return found


@pytest.fixture
def processor(folder, monkeypatch) -> Callable[..., Pruned]:
    """The processor of a server with some options."""

    def made(says: dict[str, Any] | None = None, **options: Any) -> Pruned:
        config = ModelConfig(
            str(folder), trust_remote_code=True, mm_processor_kwargs=options, max_model_len=512
        )
        for name, value in (says or {}).items():
            setattr(config.hf_config, name, value)
        return MULTIMODAL_REGISTRY.create_processor(config)

    return made


@pytest.mark.parametrize("behind", [" ", "\n", "", "\n\n"])
def test_the_question_is_what_transformers_prompt_says(folder, processor, behind):
    """Whether the mark of an image is a run of ids, or its end part of a longer token."""
    text = f"USER : <image>{behind}what color is the anchor ? <image>{behind}red ASSISTANT :"
    tokens = AutoTokenizer.from_pretrained(folder)
    found = processor().questions.in_prompt(tokens.encode(text), COUNTS, "turn", frozenset())

    tools = hub.internvl_chat().processor
    tools.chat_template = (
        "{% for m in messages %}{{ m['role'].upper() }} : "
        "{% for c in m['content'] %}{{ c['text'] }} {% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
    )
    written = tools(
        text=[text.replace("<image>", "<IMG_CONTEXT>")],
        images=[[show(24, 24), show(24, 24)]],
        return_tensors="pt",
    )
    marker = tokens.convert_tokens_to_ids("<IMG_CONTEXT>")
    prompt = Prompt(written, {"image": marker}, "internvl", template_of(tools))
    expected = [
        tuple(prompt.ids[0, prompt.question(span)].tolist()) for span in prompt.spans([9, 9])
    ]
    assert found["image"] == expected
    assert expected[0]


def test_what_a_person_types_stands_for_no_image(processor):
    """The text of several tokens, too."""
    assert {"<image>", "<IMG_CONTEXT>"} <= set(processor().questions.typed)


def test_function_words_are_skipped_as_in_the_library(processor):
    """Its chat template is the tokenizer's, whose messages are text."""
    tools = hub.internvl_chat().processor
    # a line for each part, as vLLM writes them
    lines = "('<IMG_CONTEXT>\n' if m['content'][1:] else '') + m['content'][-1]['text']"
    tools.chat_template = hub.CHAT.replace("m['content']", lines)
    questions = processor().questions
    assert questions.template_ids == boilerplate(tools)
    assert questions.chat_template.users == template_of(tools).users
    assert questions.chat_template.answers == template_of(tools).answers


def test_the_backend_that_a_server_asks_for(processor):
    """The processor is vLLM's own, and has Pillow alone."""
    images = processor(backend="pil").info.get_hf_processor().image_processor
    pixels = images([show(24, 24)], return_tensors="pt")["pixel_values_flat"]
    assert pixels.shape == torch.Size([1, 3, 24, 24])


@pytest.mark.parametrize(
    ("says", "match"),
    [
        ({"ps_version": "v1"}, "ps_version='v1' hands visual tokens over column by column"),
        ({"use_thumbnail": False}, "tiles without a thumbnail"),
    ],
)
def test_tiles_that_lie_elsewhere_are_refused(processor, says, match):
    """A server with a budget does not start, and one without refuses requests with one."""
    with pytest.raises(ValueError, match=match):
        processor(says, adafv_keep=0.5)
    plain = processor(says)
    with pytest.raises(ValueError, match=match):
        plain._options({"adafv_keep": 0.5}, {})
    assert plain._options({"adafv_keep": 1}, {}) is not None


def test_so_are_those_of_a_request(processor):
    """Without videos, a request may say how images are prepared."""
    tiles = {"min_dynamic_patch": 1, "max_dynamic_patch": 4, "dynamic_image_size": True}
    info = processor().info
    # vLLM's own, whose name differs between versions
    kind = type(info.get_hf_processor().image_processor)
    images = kind(24, **tiles, use_thumbnail=False)
    with pytest.raises(ValueError, match="tiles without a thumbnail"):
        check_tiles(info.get_hf_config(), images)


def test_images_of_one_tile_need_no_thumbnail(processor):
    processor({"use_thumbnail": False, "dynamic_image_size": False}, adafv_keep=0.5)
