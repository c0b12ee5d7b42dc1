"""Calls of an attached model read what the same calls of the plain model read, in fewer tokens."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from zoo.families import ask, show, tiny

from adafv import AdaFV
from tests.core.attached.test_cached_prompt import generated, greedy

QUESTION = "what color is the anchor ?"
PRUNER = AdaFV(keep=0.4)


def padded_by(name: str, column: int) -> tuple[Any, dict[str, Any]]:
    """A model that pads with the id of a word of the question, and inputs without a mask."""
    model, inputs = deepcopy(tiny(name).model), ask(name, (QUESTION, [show(80, 48)]))
    del inputs["attention_mask"]
    word = int(inputs["input_ids"][0, column])
    model.generation_config.pad_token_id = model.config.pad_token_id = word
    return model, inputs


@torch.no_grad()
@pytest.mark.parametrize("column", [-4, -1])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_forward_sees_words_with_the_id_of_padding(name, column):
    """Without a mask `forward` sees every column, as that of the plain model does; `generate`
    infers one.
    """
    model, inputs = padded_by(name, column)
    everything = {"attention_mask": torch.ones_like(inputs["input_ids"])}
    inferred = {"attention_mask": (inputs["input_ids"] != model.config.pad_token_id).long()}
    with PRUNER.attached(model):
        assert torch.equal(model(**inputs).logits, model(**inputs, **everything).logits)
        assert generated(model, inputs) == generated(model, inputs | inferred)


@torch.no_grad()
def test_by_hand_only_the_ends_of_rows_are_padding():
    """Whether `forward` or `generate` follows is not known: what stands between words is one."""
    model, inputs = padded_by("llava", -4)
    everything = {"attention_mask": torch.ones_like(inputs["input_ids"])}
    short = PRUNER(model, inputs)
    assert torch.equal(model(**short).logits, model(**PRUNER(model, inputs | everything)).logits)


@pytest.mark.parametrize("turn", [1, 2])
def test_a_negative_prompt_is_not_cut(turn):
    """Guidance reads it as it is, also where it is as long as the prompt, or as what is new."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show(80, 48)]))
    seen = []
    with PRUNER.attached(model):
        if turn == 2:
            first = model.generate(**inputs, **greedy(model), return_dict_in_generate=True)
            ids = torch.cat([first.sequences, inputs["input_ids"][:, -5:]], dim=1)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            inputs["past_key_values"] = first.past_key_values
        negative = torch.arange(inputs["input_ids"].shape[1])[None] % 7 + 5
        inputs |= {"negative_prompt_ids": negative}
        inputs |= {"negative_prompt_attention_mask": torch.ones_like(negative)}
        hook = model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(args[0] if args else kwargs["input_ids"]),
            with_kwargs=True,
        )
        try:
            generated(model, inputs, guidance_scale=3.0)
        finally:
            hook.remove()
    assert any(one.shape == negative.shape and torch.equal(one, negative) for one in seen)


def test_a_negative_prompt_is_not_cut_by_hand():
    """A pruner hands it on."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show(80, 48)]))
    negative = torch.zeros_like(inputs["input_ids"])
    own = torch.ones_like(negative)
    short = PRUNER(model, inputs | {"negative_prompt_ids": negative, "assistant_masks": own})
    assert torch.equal(short["negative_prompt_ids"], negative)
    assert short["assistant_masks"].shape == short["input_ids"].shape


def test_embeddings_beside_ids_are_refused():
    """`generate` of a plain model takes both: which of them to shorten is not known."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show(80, 48)]))
    inputs |= {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
    with pytest.raises(ValueError, match="beside inputs_embeds"):
        PRUNER(model, inputs)
    with PRUNER.attached(model), pytest.raises(ValueError, match="beside inputs_embeds"):
        model.generate(**inputs, max_new_tokens=2)


def test_assisted_decoding_from_a_filled_cache_is_refused():
    """Transformers reads the wrong ids then; from an empty cache it answers as without."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show(80, 48)]))
    lookup = {"prompt_lookup_num_tokens": 3}
    with PRUNER.attached(model):
        assert generated(model, inputs, **lookup) == generated(model, inputs)
        first = model.generate(**inputs, **greedy(model), return_dict_in_generate=True)
        ids = torch.cat([first.sequences, inputs["input_ids"][:, -5:]], dim=1)
        turn = {"input_ids": ids, "past_key_values": first.past_key_values}
        for assisted in (lookup, {"assistant_model": model}):
            with pytest.raises(ValueError, match="decodes wrongly from a cache"):
                generated(model, turn, **assisted)
        assert len(generated(model, turn)) == 1
