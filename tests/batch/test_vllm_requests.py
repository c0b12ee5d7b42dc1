"""Protects the number of visual tokens that a job on vLLM reports: it is the library's."""

import pytest
from PIL import Image
from transformers import Ernie4_5_VLMoeConfig, LlavaConfig
from zoo.families import ZOO

from adafv import AdaFV
from adafv.batch import vllm_requests
from adafv.integrations.vllm import ARCHITECTURES
from adafv.models.prompting import build_inputs

CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}MARKER {% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
SERVED = sorted({one.family for one in ARCHITECTURES.values()} & set(ZOO))


@pytest.mark.parametrize("family", SERVED)
def test_visual_tokens_are_those_of_the_library(family, monkeypatch):
    """Neither the tokens around an image nor those between its tiles are among them."""
    tiny = ZOO[family]()
    tiny.processor.chat_template = CHAT.replace("MARKER", tiny.marker)
    parts = iter([tiny.model.config, tiny.processor])
    monkeypatch.setattr(vllm_requests, "from_files", lambda *_, **options: next(parts))
    requests = vllm_requests.Requests(None)
    for size in ((150, 90), (48, 48)):
        image = Image.new("RGB", size)
        inputs = build_inputs(tiny.processor, image, "?")
        [count] = AdaFV(tokens=1).encode(tiny.model, inputs).tokens.counts
        assert requests.count_visual_tokens(image) == count


def test_a_prompt_that_vllm_puts_the_image_in_front_of(monkeypatch):
    """PaliGemma's has no mark of the image, which vLLM writes itself."""
    tiny = ZOO["paligemma"]()
    tiny.model.config.architectures = [type(tiny.model).__name__]
    parts = iter([tiny.model.config, tiny.processor])
    monkeypatch.setattr(vllm_requests, "from_files", lambda *_, **options: next(parts))
    requests = vllm_requests.Requests(None)
    words = tiny.processor.tokenizer("what color is it", add_special_tokens=False)["input_ids"]
    assert requests.prompt("what color is it") == words


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LlavaConfig(architectures=["Idefics2ForConditionalGeneration"]), "Idefics2"),
        (
            Ernie4_5_VLMoeConfig(architectures=["Ernie4_5_VLMoeForConditionalGeneration"]),
            "in the hub's own format alone",
        ),
    ],
    ids=["no class of ours", "transformers' format"],
)
def test_a_model_that_is_not_pruned_on_vllm(config, words, monkeypatch):
    """Named with the engine that does prune it, and not with all that are."""
    parts = iter([config, ZOO["llava"]().processor])
    monkeypatch.setattr(vllm_requests, "from_files", lambda *_, **options: next(parts))
    with pytest.raises(ValueError, match=words) as refusal:
        vllm_requests.Requests(None).check(AdaFV(tokens=1))
    assert "--engine hf" in str(refusal.value)
    assert len(str(refusal.value)) < 300
