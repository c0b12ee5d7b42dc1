import pytest
import torch
from conftest import picture

from adafv import AdaFV
from adafv.core.encode import encode
from adafv.models.boilerplate import boilerplate
from adafv.models.prompting import build_inputs, prompt_for


def words_of(processor, ids):
    return set(processor.tokenizer.convert_ids_to_tokens(sorted(ids)))


def test_template_words_are_found_and_the_question_is_not(processor):
    assert words_of(processor, boilerplate(processor, stop_words=False)) == {
        "USER",
        "ASSISTANT",
        ":",
    }


def test_stop_words_are_added_and_content_words_are_not(processor):
    found = words_of(processor, boilerplate(processor))
    assert found >= {"USER", "ASSISTANT", "the", "is", "what", "of", "?", "a", "how", "there"}
    assert not found & {
        "anchor",
        "knight",
        "red",
        "blue",
        "color",
        "left",
        "many",
        "<unk>",
        "<image>",
    }


@pytest.mark.parametrize("family", ["llava_next"], indirect=True)
def test_what_is_skipped_is_no_word_of_the_question(model, processor):
    inputs = build_inputs(processor, picture(), "what color is the anchor ?", "cpu", torch.float32)
    embedded = encode(model, inputs, skip=boilerplate(processor)).tokens.text
    ids = processor.tokenizer.convert_tokens_to_ids(["color", "anchor"])
    assert torch.equal(embedded[0], model.get_input_embeddings()(torch.tensor(ids)))
    assert AdaFV(keep=0.2, skip=boilerplate(processor))(model, inputs)["input_ids"].shape[1] > 0


def test_a_processor_without_a_template_has_the_words_that_ask_puts_around_the_question(
    processor, monkeypatch
):
    monkeypatch.setattr(processor, "chat_template", None)
    assert "ASSISTANT:" in prompt_for(processor, "color")
    assert not words_of(processor, boilerplate(processor, stop_words=False)) & {"color", "<unk>"}
