"""What people do with a model, with a pruner in between: on real classes, with every text
backbone.
"""

import pytest
import torch
from conftest import BACKBONES, FAMILIES, inputs_for, picture, prompt, tiny_model, tiny_processor
from transformers import DynamicCache, TextIteratorStreamer, pipeline

from adafv import AdaFV, Pool

GREEDY = dict(max_new_tokens=6, do_sample=False)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("positions", ["packed", "original"])
def test_cached_decoding_is_decoding_without_a_cache(family, backbone, positions):
    """Positions and masks of later tokens continue from the shortened prompt, for every text
    backbone.
    """
    model, processor = tiny_model(family, backbone), tiny_processor(family)
    inputs = inputs_for(
        processor,
        (prompt(), [picture()]),
        (prompt(images=2), [picture(24, 48, 1), picture(48, 24, 2)]),
    )
    short = AdaFV(keep=0.2, positions=positions)(model, inputs)
    cached = model.generate(**short, **GREEDY)
    assert torch.equal(cached, model.generate(**short, **GREEDY, use_cache=False))
    if positions == "original":
        packed = model(**AdaFV(keep=0.2)(model, inputs)).logits
        assert not torch.allclose(packed, model(**short).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(family, dtype):
    """Scores are fp32 whatever the model's dtype; features keep the model's."""
    model, processor = tiny_model(family).to(dtype), tiny_processor(family)
    inputs = inputs_for(processor, (prompt(), [picture()]))
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    for pruner in (AdaFV(keep=0.2), Pool(keep=0.2)):
        short = pruner(model, inputs)
        assert short["mm_encoder_outputs"]["image"].pooler_output[0].dtype == dtype
        assert model.generate(**short, **GREEDY).shape[0] == 1


def test_attached_generate_returns_the_callers_prompt(model, processor):
    """Ids begin with the full prompt and continue as from the pruned one; a left-padded batch with
    0, 1, 2 images.
    """
    samples = [
        (prompt("how many ?", images=0), []),
        (prompt(), [picture()]),
        (prompt(images=2), [picture(24, 48, 1), picture(48, 24, 2)]),
    ]
    inputs, pruner = inputs_for(processor, *samples), AdaFV(keep=0.2)
    expected = model.generate(**pruner(model, inputs), **GREEDY)
    with pruner.attached(model):
        ids = model.generate(**inputs, **GREEDY)
        output = model.generate(
            **inputs, **GREEDY, return_dict_in_generate=True, output_scores=True
        )
        text_only = model.generate(**inputs_for(processor, samples[0]), **GREEDY)
    assert torch.equal(ids[:, :-6], inputs["input_ids"])
    assert torch.equal(ids[:, -6:], expected[:, -6:])
    assert torch.equal(output.sequences, ids)
    assert len(output.scores) == 6
    assert torch.equal(text_only, model.generate(**inputs_for(processor, samples[0]), **GREEDY))


def test_max_length_counts_the_callers_prompt(model, processor):
    """As an argument or in a generation config, which stays as it was."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    longest = inputs["input_ids"].shape[1] + 4
    config = model.generation_config.__class__(max_length=longest, pad_token_id=1)
    with AdaFV(keep=0.2).attached(model):
        assert model.generate(**inputs, max_length=longest, do_sample=False).shape[1] == longest
        assert model.generate(**inputs, generation_config=config).shape[1] == longest
    assert config.max_length == longest


def test_streaming(model, processor):
    """Tokens arrive one by one through the attached model."""
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    inputs = inputs_for(processor, (prompt(), [picture()]))
    with AdaFV(keep=0.2).attached(model):
        ids = model.generate(**inputs, **GREEDY, streamer=streamer)
    assert "".join(streamer) == processor.tokenizer.decode(ids[0, -6:])


def test_labels_give_the_loss_of_the_shortened_sequence(model, processor):
    """And gradients reach the projector and the tower, where the model is in training mode."""
    inputs = inputs_for(processor, (prompt(), [picture()]), side="right")
    labels = inputs["input_ids"].clone()
    labels[labels == model.config.image_token_id] = -100
    pruner = AdaFV(keep=0.2)
    short = pruner(model, inputs | {"labels": labels})
    logits = model(**short).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, short["labels"][:, 1:].flatten())
    with pruner.attached(model):
        model.train()
        loss = model(**inputs, labels=labels).loss
        model.eval()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.base_model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0
    model.zero_grad()


def test_forward_takes_positional_arguments(model, processor):
    """As some harnesses call it."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    ids, pixels = inputs.pop("input_ids"), inputs.pop("pixel_values")
    with AdaFV(keep=0.2).attached(model):
        assert torch.equal(
            model(ids, pixels, **inputs).logits,
            model(input_ids=ids, pixel_values=pixels, **inputs).logits,
        )


def test_multi_turn_chat(model, processor):
    """The image of the first turn is asked about by that turn; the whole chat comes back with the
    answer.
    """
    turn = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "what color is the anchor ?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "red ."}]},
        {"role": "user", "content": [{"type": "text", "text": "how many ?"}]},
    ]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = inputs_for(processor, (text, [picture()]))
    pruner = AdaFV(keep=0.2, tokenizer=processor)
    words = pruner.encode(model, inputs).tokens.text_mask.sum()
    assert words == len(["what", "color", "is", "the", "anchor", "?"])
    with pruner.attached(model):
        assert torch.equal(model.generate(**inputs, **GREEDY)[:, :-6], inputs["input_ids"])


def test_a_prefilled_cache_is_refused(model, processor):
    """With a part of the prompt in a cache already, the rest can't be pruned to an exact budget."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    inputs["attention_mask"] = torch.ones(1, inputs["input_ids"].shape[1] + 7, dtype=torch.long)
    with (
        AdaFV(keep=0.2).attached(model),
        pytest.raises(ValueError, match="without a prefilled cache"),
    ):
        model.generate(**inputs, **GREEDY, past_key_values=DynamicCache())


@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline(family):
    """`pipeline("image-text-to-text")` strips the prompt it passed in: it must find it again."""
    model, processor = tiny_model(family), tiny_processor(family)
    run = pipeline("image-text-to-text", model=model, processor=processor, device="cpu")
    chat = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": picture()},
                {"type": "text", "text": "how many ?"},
            ],
        }
    ]
    pruner = AdaFV(keep=0.2)
    with pruner.attached(model):
        answer = run(
            text=chat,
            max_new_tokens=6,
            generate_kwargs={"do_sample": False},
            return_full_text=False,
        )
    inputs = inputs_for(
        processor, (processor.apply_chat_template(chat, add_generation_prompt=True), [picture()])
    )
    expected = model.generate(**pruner(model, inputs), **GREEDY)[0, -6:]
    assert answer[0]["generated_text"].strip() == processor.tokenizer.decode(
        expected, skip_special_tokens=True
    )
