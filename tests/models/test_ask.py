"""Asking: the plain model's answer with everything kept, honest counts and times, and questions
that stay questions.
"""

import time

import pytest
import torch
from conftest import INSIDE, picture, prompt, tiny_model, tiny_processor
from PIL import Image
from zoo.families import ZOO

from adafv import METHODS, AdaFV, NoPruning, method
from adafv.models.ask import ask
from adafv.models.prompting import build_inputs, build_text, prompt_for

QUESTION = "what color is the anchor ?"


def test_dense_answer_is_the_plain_models(model, processor):
    """`none` through the pruner says what `model.generate` says."""
    inputs = processor(text=prompt_for(processor, QUESTION), images=picture(), return_tensors="pt")
    with torch.no_grad():
        plain = model.generate(**inputs, max_new_tokens=6, do_sample=False)[
            :, inputs["input_ids"].shape[1] :
        ]
    answer = ask(model, processor, picture(), QUESTION, NoPruning(), max_new_tokens=6)
    assert answer.answer == processor.decode(plain[0], skip_special_tokens=True).strip()
    assert answer.kept_tokens == answer.visual_tokens > 0


@pytest.mark.parametrize("name", METHODS)
def test_counts_and_times(model, processor, name):
    """Counts are the budget's; the first token comes after the start and before the last."""
    pruner = NoPruning() if name == "none" else method(name, tokens=120 if name in INSIDE else 12)
    before = time.perf_counter()
    answer = ask(model, processor, picture(), QUESTION, pruner, max_new_tokens=4)
    wall = (time.perf_counter() - before) * 1000
    assert answer.method == name
    if name != "adafv_released":
        assert answer.kept_tokens == min(
            pruner.tokens or answer.visual_tokens, answer.visual_tokens
        )
    assert 0 < answer.prefill_ms < answer.total_ms < wall


def test_one_token_has_no_decoding(model, processor):
    """prefill_ms ends with the first token's logits: with one new token it is nearly all of
    total_ms.
    """
    longer = ask(model, processor, picture(), QUESTION, AdaFV(keep=0.1), max_new_tokens=48)
    assert longer.prefill_ms < 0.5 * longer.total_ms


def test_more_tokens_than_there_are_keeps_all(model, processor):
    """tokens=10**6 is no error."""
    answer = ask(model, processor, picture(), QUESTION, AdaFV(tokens=10**6), max_new_tokens=2)
    assert answer.kept_tokens == answer.visual_tokens


@pytest.mark.parametrize("question", ["", "   ", "\n\t"])
def test_empty_questions(processor, question):
    """Nothing asked, nothing answered."""
    with pytest.raises(ValueError, match="empty"):
        build_inputs(processor, picture(), question)


@pytest.mark.parametrize("token", ["<image>", "</s>", "<s>", "<pad>", "<unk>"])
@pytest.mark.parametrize("around", ["{}", "what {} is", "a{}b", "{0}{0}"])
def test_control_tokens_in_questions(processor, token, around):
    """A question must not add a placeholder, end the prompt or open another turn."""
    with pytest.raises(ValueError, match="control token") as info:
        build_inputs(processor, picture(), around.format(token))
    assert token in str(info.value)
    assert "\n" not in str(info.value)


def test_undecodable_questions(processor):
    """Bytes that are no UTF-8 arrive as surrogates, which tokenizers can't read."""
    with pytest.raises(ValueError, match="UTF-8"):
        build_inputs(processor, picture(), "what \udcff is")


@pytest.mark.parametrize(
    "question",
    ["is 1 < 2 > 0 ?", "was ist das für ein Ding 🐙 ?", "image", "a\nb", "{{ x }} {% if %}"],
)
def test_odd_but_honest_questions_work(model, processor, question):
    """Angle brackets, emoji, newlines and template syntax are only text; there is one image's worth
    of placeholders.
    """
    inputs = build_inputs(processor, picture(), question)
    plain = build_inputs(processor, picture(), QUESTION)
    count = [int((i["input_ids"] == model.config.image_token_id).sum()) for i in (inputs, plain)]
    assert count[0] == count[1] > 0
    assert (inputs["input_ids"] == processor.tokenizer.eos_token_id).sum() == 0


def test_chat_template_or_the_fallback(processor, monkeypatch):
    """The model's own template where it has one, LLaVA-1.5's where it has none; a blind prompt has
    no placeholder.
    """
    assert prompt_for(processor, QUESTION) == prompt().replace("ASSISTANT :", "ASSISTANT :")
    assert "<image>" not in prompt_for(processor, QUESTION, image=False)
    monkeypatch.setattr(processor, "chat_template", None)
    assert prompt_for(processor, QUESTION) == f"USER: <image>\n{QUESTION} ASSISTANT:"
    assert prompt_for(processor, QUESTION, image=False) == f"USER: {QUESTION} ASSISTANT:"


def test_a_model_without_chats_reads_the_question_alone():
    """PaliGemma: the image, then what it is to do."""
    processor = ZOO["paligemma"]().processor
    assert prompt_for(processor, "answer en what is it") == "<image>answer en what is it"
    assert prompt_for(processor, "caption en", image=False) == "caption en"


def test_a_template_with_bos_gives_one_bos(processor, monkeypatch):
    """LLaMA's tokenizer adds <s> by itself; a template that has it already must not make two."""
    from tokenizers import processors

    post = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    backend = processor.tokenizer.backend_tokenizer
    before = backend.post_processor
    backend.post_processor = post
    try:
        for template in (processor.chat_template, "<s> " + processor.chat_template):
            monkeypatch.setattr(processor, "chat_template", template)
            for ids in (
                build_inputs(processor, picture(), QUESTION)["input_ids"],
                build_text(processor, [QUESTION], "cpu")["input_ids"],
            ):
                assert (ids == 2).sum() == 1
    finally:
        backend.post_processor = before


def test_transparent_and_16_bit_pictures_from_memory(processor):
    """An image that comes as a PIL image is treated like one from a file."""
    clear = Image.new("RGBA", (48, 48), (0, 0, 0, 0))
    white = Image.new("RGB", (48, 48), "white")
    pixels = [build_inputs(processor, image, QUESTION)["pixel_values"] for image in (clear, white)]
    assert torch.equal(*pixels)


def test_shapes_are_checked(processor):
    """Also for images that never were a file."""
    with pytest.raises(ValueError, match="crop"):
        build_inputs(processor, Image.new("RGB", (20_000, 3)), QUESTION)


def test_prompts_longer_than_the_model_reads():
    """Beyond its positions a model talks nonsense: said instead."""
    model, processor = tiny_model("llava"), tiny_processor("llava")
    model.config.text_config.max_position_embeddings = 40
    with pytest.raises(ValueError, match="model reads 40"):
        ask(model, processor, picture(), QUESTION, NoPruning())
    ask(model, processor, picture(), QUESTION, AdaFV(keep=0.1), max_new_tokens=1)
    with pytest.raises(ValueError, match="tokens of text, the model reads 40"):
        ask(model, processor, picture(), "what " * 50, AdaFV(keep=0.1))


def test_room_for_an_answer(model, processor):
    """max_new_tokens=0 is a mistake."""
    with pytest.raises(ValueError, match="max_new_tokens"):
        ask(model, processor, picture(), QUESTION, NoPruning(), max_new_tokens=0)
