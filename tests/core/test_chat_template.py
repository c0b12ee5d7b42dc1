"""Whose words a question is made of: under the chat formats of ten families, with subword
tokenizers.
"""

import json
from copy import deepcopy
from functools import cache

import pytest
import torch
from conftest import BEFORE, INSIDE, inputs_for, picture, prompt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adafv import AdaFV, method
from adafv.core import chat_template
from adafv.core.chat_template import template_for, template_of
from adafv.core.prompt import Prompt

IMAGE = "<image>"
# name: opening, system, user, answer, opening of an answer; {} is what is said
FORMATS = {
    "vicuna": ("<s>", "{} ", "USER: {} ", "ASSISTANT: {}</s>", "ASSISTANT:"),
    "mistral": ("<s>", "{}\n", "[INST] {} [/INST]", " {}</s>", ""),
    "chatml": (
        "",
        "<|im_start|>system\n{}<|im_end|>\n",
        "<|im_start|>user\n{}<|im_end|>\n",
        "<|im_start|>assistant\n{}<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "thinking": (
        "",
        "<|im_start|>system\n{}<|im_end|>\n",
        "<|im_start|>user\n{}<|im_end|>\n",
        "<|im_start|>assistant\n{}<|im_end|>\n",
        "<|im_start|>assistant\n<think>\n",
    ),
    "llama3": (
        "<s>",
        "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": (
        "<s>",
        "{}\n\n",
        "<start_of_turn>user\n{}<end_of_turn>\n",
        "<start_of_turn>model\n{}<end_of_turn>\n",
        "<start_of_turn>model\n",
    ),
    "idefics": (
        "<s>",
        "System: {}<end_of_utterance>\n",
        "User: {}<end_of_utterance>\n",
        "Assistant: {}<end_of_utterance>\n",
        "Assistant:",
    ),
    "glm": ("<s>", "<|system|>\n{}", "<|user|>\n{}", "<|assistant|>\n{}", "<|assistant|>\n"),
    "deepseek": ("<s>", "{}\n\n", "<|User|>: {}\n\n", "<|Assistant|>: {}</s>", "<|Assistant|>:"),
    "cohere": (
        "<s>",
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
}
CONTROL = (
    *(
        "<pad>",
        "<s>",
        "</s>",
        IMAGE,
        "[INST]",
        "[/INST]",
        "<|im_start|>",
        "<|im_end|>",
        "<|start_header_id|>",
    ),
    *(
        "<|end_header_id|>",
        "<|eot_id|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<|system|>",
    ),
    *(
        "<|user|>",
        "<|assistant|>",
        "<|User|>",
        "<|Assistant|>",
        "<|START_OF_TURN_TOKEN|>",
        "<|SYSTEM_TOKEN|>",
    ),
    *("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
)
SYSTEM = "You are a helpful assistant who answers the user"
FIRST, AFTER = "look at this image of a knight", "what color is the anchor left of the user?"
LATER, SAID = "how many are there?", "it is red, and the assistant knows"


def jinja(opening, system, user, answer, generation):
    """A chat template of a format: contents are texts, or lists of images and texts."""

    def said(part):
        before, after = part.split("{}")
        return (
            f"{{{{ {before!r} }}}}{{% if m.content is string %}}{{{{ m.content }}}}"
            f"{{% else %}}{{% for c in m.content %}}"
            f"{{% if c.type == 'image' %}}{{{{ {IMAGE + chr(10)!r} }}}}"
            "{% else %}{{ c.text }}{% endif %}"
            f"{{% endfor %}}{{% endif %}}{{{{ {after!r} }}}}"
        )

    return (
        f"{{{{ {opening!r} }}}}{{% for m in messages %}}{{% if m.role == 'system' %}}{said(system)}"
        f"{{% elif m.role == 'user' %}}{said(user)}{{% else %}}{said(answer)}"
        "{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {generation!r} }}}}{{% endif %}}"
    )


@cache
def subwords(kind: str) -> Tokenizer:
    """A byte-level or a SentencePiece-like tokenizer of subwords, trained on the sentences of the
    tests.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=kind == "sentencepiece"))
    if kind == "bytes":
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.Metaspace(),
            decoders.Metaspace(),
        )
        alphabet = [chr(i) for i in range(32, 127)] + ["\n"]
    words = [
        SYSTEM,
        FIRST,
        AFTER,
        LATER,
        SAID,
        "USER: ASSISTANT: System: User: Assistant: user assistant model",
    ]
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL])
    return tokenizer


@pytest.mark.parametrize(("blank", "letter_is_text"), [("▁", True), ("Ġ", False)])
def test_letters_that_stand_for_bytes_elsewhere(blank, letter_is_text):
    """č is a letter in Czech, and a line break in a byte-level vocabulary alone."""
    backend = Tokenizer(models.WordLevel({blank: 0, "č": 1, "a": 2, "<unk>": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    structure = template_of(tokenizer).structure
    assert 0 in structure
    assert 2 not in structure
    assert (1 not in structure) is letter_is_text


def chat_tokenizer(kind: str, form: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=subwords(kind),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=jinja(*FORMATS[form]),
    )


def user(*content: str) -> dict:
    parts = [{"type": "image"} if c == IMAGE else {"type": "text", "text": c} for c in content]
    return {"role": "user", "content": parts}


def asked(
    tokenizer, messages: list[dict], of: str = "turn", skip: frozenset[int] = frozenset()
) -> list[str]:
    """The question of each image of a chat, as text without spaces."""
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    text = text.replace(IMAGE, IMAGE * 3)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    number = tokenizer.convert_tokens_to_ids(IMAGE)
    prompt = Prompt({"input_ids": ids}, {"image": number}, "tiny", template_of(tokenizer))
    images = int((ids == number).sum()) // 3
    found = [ids[0, prompt.question(span, skip, of)] for span in prompt.spans([3] * images)]
    return [tokenizer.decode(words).replace(" ", "") for words in found]


def joined(*sentences: str) -> str:
    return "".join(sentences).replace(" ", "")


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize("form", FORMATS)
def test_the_question_is_the_users_words_of_the_turn(form, kind):
    """Before the image and after it, of its own turn; no word of the template, the system prompt or
    an answer.
    """
    tokenizer = chat_tokenizer(kind, form)
    system, answer = {"role": "system", "content": SYSTEM}, {"role": "assistant", "content": SAID}
    assert asked(tokenizer, [user(IMAGE, AFTER)]) == [joined(AFTER)]
    assert asked(tokenizer, [user(FIRST, IMAGE)]) == [joined(FIRST)]
    assert asked(tokenizer, [user(FIRST, IMAGE, AFTER)]) == [joined(FIRST, AFTER)]
    assert asked(tokenizer, [system, user(IMAGE, AFTER)]) == [joined(AFTER)]
    chat = [user(IMAGE, AFTER), answer, user(IMAGE, LATER)]
    assert asked(tokenizer, chat) == [joined(AFTER), joined(LATER)]
    assert asked(tokenizer, [system, *chat]) == [joined(AFTER), joined(LATER)]
    assert asked(tokenizer, chat, of="chat") == [joined(AFTER, LATER), joined(LATER)]


@pytest.mark.parametrize("form", FORMATS)
def test_an_image_without_a_word_is_asked_about_by_the_next_turn(form):
    tokenizer = chat_tokenizer("bytes", form)
    answer = {"role": "assistant", "content": SAID}
    assert asked(tokenizer, [user(IMAGE), answer, user(LATER)]) == [joined(LATER)]
    assert asked(tokenizer, [user(AFTER), answer, user(IMAGE)]) == [joined(AFTER)]


def test_without_a_template_all_text_but_control_tokens_is_the_question():
    """Words before the image count, too; what labels point at doesn't, and each turn ends where an
    answer begins.
    """
    ids = torch.tensor([[5, 6, 4, 4, 7, 8, 9, 4, 10, 11]])
    labels = torch.tensor([[-100, -100, -100, -100, -100, 8, 9, -100, -100, 11]])
    plain = Prompt({"input_ids": ids}, {"image": 4}, "tiny")
    assert [plain.question(span).tolist() for span in plain.spans([2, 1])] == [
        [0, 1, 4, 5, 6, 8, 9]
    ] * 2
    trained = Prompt({"input_ids": ids, "labels": labels}, {"image": 4}, "tiny")
    assert [trained.question(span).tolist() for span in trained.spans([2, 1])] == [[0, 1, 4], [8]]
    everything = Prompt({"input_ids": ids, "labels": ids}, {"image": 4}, "tiny")
    assert everything.question(everything.spans([2, 1])[0]).tolist() == [0, 1, 4, 5, 6, 8, 9]


@pytest.mark.parametrize("name", [n for n in BEFORE if n != "none"])
@pytest.mark.parametrize("told", ["labels", "template"])
def test_the_answer_takes_no_part_in_the_choice(model, processor, name, told):
    """Invariant 8: prompt + answer, whatever the answer, keeps what the prompt alone keeps."""
    pruner = method(name, keep=0.3, **({"tokenizer": processor} if told == "template" else {}))
    inputs = inputs_for(
        processor, ("USER : <image> what color is the anchor ? ASSISTANT :", [picture()])
    )

    def kept(answer: str) -> list[int]:
        more = torch.tensor([processor.tokenizer(answer)["input_ids"]], dtype=torch.long)
        ids = torch.cat([inputs["input_ids"], more], 1)
        whole = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if told == "labels":
            whole["labels"] = torch.cat([torch.full_like(inputs["input_ids"], -100), more], 1)
        encoding = pruner.encode(model, whole)
        return (
            pruner.select(encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts])
            .kept[0]
            .tolist()
        )

    if told == "labels":
        assert kept("red") == kept("the blue knight is left of a red anchor .")
    else:
        assert kept("") == kept("red") == kept("the blue knight is left of a red anchor .")


@pytest.mark.parametrize("name", INSIDE)
def test_between_layers_the_answer_does_not_rate(model, processor, name):
    """The last token before the answer rates, or the question's words: the answer is read as the
    decode wrote it.
    """
    pruner, model = method(name, keep=0.6, tokenizer=processor), deepcopy(model)
    # no answer holds a placeholder
    model.get_output_embeddings().weight.data[model.config.image_token_id] = 0
    inputs = inputs_for(
        processor, ("USER : <image> what color is the anchor ? ASSISTANT :", [picture()])
    )
    with pruner.attached(model):
        written = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        with torch.no_grad():
            scored = model(
                **inputs | {"input_ids": written, "attention_mask": torch.ones_like(written)}
            ).logits
    new = written[0, inputs["input_ids"].shape[1] :]
    assert scored[0, -len(new) - 1 : -1].argmax(-1).tolist() == new.tolist()


def test_the_template_comes_from_the_folder_of_the_model(model, processor, tmp_path):
    """Where neither a tokenizer is given nor `adafv.models.load` was used: nothing is downloaded,
    files are enough.
    """
    model = deepcopy(model)  # nobody has asked it anything together with a processor
    inputs = inputs_for(
        processor, ("USER : <image> what color is the anchor ? ASSISTANT :", [picture()])
    )
    assert AdaFV(keep=0.2).encode(model, inputs).tokens.text_mask.sum() == 10
    assert AdaFV(keep=0.2, tokenizer=processor).encode(model, inputs).tokens.text_mask.sum() == 6
    processor.save_pretrained(tmp_path)
    model.config._name_or_path = str(tmp_path)
    assert AdaFV(keep=0.2).encode(model, inputs).tokens.text_mask.sum() == 6


def test_a_tokenizer_that_comes_later_is_found(model, processor, tmp_path):
    """A folder without one is not remembered for good, but while it is the same."""
    model = deepcopy(model)
    model.config._name_or_path = str(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert template_for(model).users == ()
    assert chat_template._without[str(tmp_path)] is not None
    processor.save_pretrained(tmp_path)
    assert template_for(model).users == template_of(processor).users != ()


def test_a_template_that_processors_alone_read_counts(model, processor, tmp_path):
    """chat_template.json, as many checkpoints have it, which no tokenizer opens."""
    model = deepcopy(model)
    inputs = inputs_for(
        processor, ("USER : <image> what color is the anchor ? ASSISTANT :", [picture()])
    )
    processor.save_pretrained(tmp_path)
    template = tmp_path / "chat_template.jinja"
    text = template.read_text()
    template.unlink()
    model.config._name_or_path = str(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": text}))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None
    assert AdaFV(keep=0.2).encode(model, inputs).tokens.text_mask.sum() == 6


@pytest.mark.parametrize("text", ["{", "{}", "[]", "\x00"])
def test_a_damaged_template_is_one_sentence(model, processor, tmp_path, text):
    """Rather than a choice by other words than the model's own template would give."""
    model = deepcopy(model)
    processor.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(text)
    model.config._name_or_path = str(tmp_path)
    with pytest.raises(ValueError, match=r"chat_template\.json is damaged .*fetch the file again"):
        AdaFV(keep=0.2).encode(model, inputs_for(processor, (prompt(), [picture()])))


def test_a_token_that_is_added_later_is_no_word(model, processor):
    """Whether the template was read before or afterwards."""
    processor = deepcopy(processor)
    before = template_of(processor).structure
    processor.tokenizer.add_special_tokens({"extra_special_tokens": ["<ground>"]})
    new = processor.tokenizer.convert_tokens_to_ids("<ground>")
    assert new not in before
    assert new in template_of(processor).structure


def test_names_of_tiles_are_no_words():
    """What stands between the placeholders of one image does not count, and what stands between
    two images does.
    """
    image, tile, word = 7, 8, 5
    ids = torch.tensor([[word, image, tile, image, word, image, tile, tile, image, word]])
    prompt = Prompt({"input_ids": ids}, {"image": image}, "tiny")
    for span in prompt.spans([2, 2]):
        assert prompt.question(span).tolist() == [0, 4, 9]
