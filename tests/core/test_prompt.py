"""Prompts as people pass them: masks of any kind or none, packed rows, labels, lists, words that
look like images.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LogitsProcessorList
from zoo.base import ALONG
from zoo.families import ZOO, ask, show, tiny

from adafv import AdaFV, method

QUESTION, OTHER = "what color is the anchor ?", "is there a red knight left of the anchor ?"
GREEDY = dict(max_new_tokens=4, do_sample=False)
PACKABLE = ("llava", "llava_next", "internvl", "llava_onevision", "aya_vision", "vipllava")
M_ROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")


def two(name: str) -> dict:
    """A batch of two prompts of different lengths, an image each, padded on the left."""
    return ask(
        name, (QUESTION, [show(48, 48)]), (f"{QUESTION} and {OTHER}", [show(80, 48, seed=1)])
    )


def holed(name: str) -> dict:
    """Prompts padded on both sides, with a hole among the words of the second."""
    inputs = two(name)
    for key in ALONG:
        if key in inputs:
            inputs[key] = F.pad(inputs[key], (0, 2), value=1 if key == "input_ids" else 0)
    inputs["input_ids"][1, -2:] = inputs["input_ids"][1, -4:-2]
    inputs["attention_mask"][1, -2:] = 1
    inputs["attention_mask"][1, -5] = 0
    return inputs


def text_of(inputs: dict, row: int, token: int) -> list[tuple[int, int]]:
    """Ids and mask of what is no placeholder, from the first token that is attended to."""
    ids, mask = inputs["input_ids"][row].tolist(), inputs["attention_mask"][row].tolist()
    pairs = list(zip(ids, mask, strict=True))[mask.index(1) :]
    return [(i, m) for i, m in pairs if i != token]


@pytest.mark.parametrize("name", ZOO)
@torch.no_grad()
def test_masked_columns_stay_where_they_were(name):
    """Invariant 2: with padding on both sides and a hole, keep=1 gives the plain model's inputs,
    logits and loss.
    """
    model, inputs = tiny(name).model, holed(name)
    whole = AdaFV(keep=1.0)(model, inputs)
    for key in ALONG:
        if key in inputs:
            assert torch.equal(whole[key], inputs[key])
    labels = inputs["input_ids"]  # on padding, too
    plain, same = (
        model(**inputs, labels=labels),
        model(**AdaFV(keep=1.0)(model, inputs | {"labels": labels})),
    )
    assert torch.equal(plain.logits, same.logits)
    assert torch.equal(plain.loss, same.loss)
    short = AdaFV(keep=0.3)(model, inputs)
    for row in range(2):
        assert text_of(short, row, model.config.image_token_id) == text_of(
            inputs, row, model.config.image_token_id
        )


@pytest.mark.parametrize("name", ZOO)
@torch.no_grad()
def test_without_a_mask_it_is_what_the_model_infers(name):
    """Invariant 2: `forward` attends to everything, `generate` leaves padding out; nothing is added
    at keep=1.
    """
    model, given = tiny(name).model, two(name)
    inputs = {key: x for key, x in given.items() if key != "attention_mask"}
    whole = AdaFV(keep=1.0)(model, inputs)
    assert "attention_mask" not in whole
    assert torch.equal(whole["input_ids"], inputs["input_ids"])
    equal = ask(name, (QUESTION, [show(48, 48)]), (QUESTION, [show(48, 48, seed=1)]))
    equal.pop("attention_mask")
    try:
        plain = model(**equal).logits
    except (ValueError, RuntimeError, TypeError, AttributeError):
        return  # the plain model needs a mask
    assert torch.equal(model(**AdaFV(keep=1.0)(model, equal)).logits, plain)
    short, with_mask = AdaFV(keep=0.3)(model, inputs), AdaFV(keep=0.3)(model, given)
    assert torch.equal(short["input_ids"], with_mask["input_ids"])
    assert torch.equal(short["attention_mask"], with_mask["attention_mask"])
    assert (
        model.generate(**short, **GREEDY).tolist() == model.generate(**with_mask, **GREEDY).tolist()
    )


def packed(name: str, *samples: dict) -> dict:
    """Samples in one row, each numbered from 0, without a mask, as padding-free training packs
    them.
    """
    lengths = [s["input_ids"].shape[1] for s in samples]
    row = {key: torch.cat([s[key] for s in samples]) for key in samples[0] if key not in ALONG}
    for key in ALONG:
        if key in samples[0] and key != "attention_mask":
            row[key] = torch.cat([s[key] for s in samples], dim=1)
    return row | {"position_ids": torch.cat([torch.arange(n) for n in lengths])[None]}


@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize("chosen", ["adafv", "adafv+", "visionzip", "divprune"])
@torch.no_grad()
def test_packed_rows_are_their_samples(name, chosen):
    """Each sample keeps its own question, its own positions and sees no other, as in the plain
    model.
    """
    model = tiny(name).model
    samples = [ask(name, (QUESTION, [show(48, 48)])), ask(name, (OTHER, [show(80, 48, seed=1)]))]
    row = packed(name, *samples)
    whole = AdaFV(keep=1.0)(model, row)
    assert "attention_mask" not in whole
    assert torch.equal(model(**whole, use_cache=False).logits, model(**row, use_cache=False).logits)
    pruner = method(chosen, keep=0.4)
    short = pruner(model, row)
    assert "attention_mask" not in short
    logits, start = model(**short, use_cache=False).logits[0], 0
    for sample in samples:
        alone = pruner(model, sample)
        own = slice(start, start := start + alone["input_ids"].shape[1])
        assert torch.equal(short["input_ids"][:, own], alone["input_ids"])
        assert torch.equal(short["position_ids"][0, own], torch.arange(alone["input_ids"].shape[1]))
        torch.testing.assert_close(logits[own], model(**alone).logits[0], rtol=1e-3, atol=1e-3)
    assert start == short["input_ids"].shape[1]


def test_packed_rows_of_unequal_lengths_are_padded_behind():
    """New padding falls apart into segments of its own, labelled with nothing."""
    model = tiny("llava").model
    one, other = ask("llava", (QUESTION, [show(48, 48)])), ask("llava", ("how many ?", []))
    width = one["input_ids"].shape[1]
    other = F.pad(other["input_ids"], (0, width - other["input_ids"].shape[1]), value=8)
    inputs = {
        "input_ids": torch.cat([one["input_ids"], other]),
        "pixel_values": one["pixel_values"],
    }
    numbers = torch.arange(width).expand(2, -1).clone()
    numbers[1, 5:] -= 5
    numbers[0, -4:] = torch.arange(4)
    short = AdaFV(keep=0.3)(
        model, inputs | {"position_ids": numbers, "labels": inputs["input_ids"]}
    )
    assert "attention_mask" not in short
    assert torch.equal(short["input_ids"][1], other[0])
    assert short["position_ids"][1].tolist() == numbers[1].tolist()
    gone = width - int((short["labels"][0] != -100).sum())
    assert gone > 0
    assert short["position_ids"][0, -gone:].tolist() == [0] * gone


def test_bounds_of_packed_rows_shrink_too():
    """What attention kernels take in place of position ids."""
    model = tiny("llava").model
    samples = [
        ask("llava", (QUESTION, [show(48, 48)])),
        ask("llava", (OTHER, [show(80, 48, seed=1)])),
    ]
    row = packed("llava", *samples)
    lengths = [0, *(s["input_ids"].shape[1] for s in samples)]
    bounds = torch.tensor(lengths, dtype=torch.int32).cumsum(0).int()
    short = AdaFV(keep=0.4)(model, row | {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds})
    alone = [AdaFV(keep=0.4)(model, s)["input_ids"].shape[1] for s in samples]
    assert short["cu_seq_lens_q"].tolist() == [0, alone[0], sum(alone)]
    assert short["cu_seq_lens_k"].dtype == torch.int32
    with pytest.raises(ValueError, match="packed row"):
        AdaFV(keep=0.4, positions="original")(model, row)


@pytest.mark.parametrize("name", M_ROPE)
@torch.no_grad()
def test_a_placeholder_without_its_pixels_is_a_word(name):
    """A video placeholder beside an image stays, is read, and its row keeps its length at
    keep=1.
    """
    model, inputs = tiny(name).model, ask(name, (QUESTION, [show(48, 48)]))
    inputs["input_ids"][0, -4] = model.config.video_token_id
    whole = AdaFV(keep=1.0)(model, inputs)
    assert torch.equal(whole["input_ids"], inputs["input_ids"])
    assert torch.equal(model(**whole).logits, model(**inputs).logits)
    short = AdaFV(keep=0.3)(model, inputs)
    assert int((short["input_ids"] == model.config.video_token_id).sum()) == 1


@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_vl"])
def test_lists_arrays_and_ids_of_any_integer_type(name):
    """What a processor returns without `return_tensors`, and ids that are no int64: the same tokens
    stay.
    """
    model, inputs = tiny(name).model, ask(name, (QUESTION, [show(48, 48)]))
    pruner = AdaFV(keep=0.3)
    expected = pruner(model, inputs)
    kinds = {
        "lists": lambda x: x.tolist(),
        "arrays": lambda x: x.numpy(),
        "int32": lambda x: x.int() if not x.is_floating_point() else x,
        "float64": lambda x: x.numpy().astype(np.float64) if x.is_floating_point() else x,
    }
    for change in kinds.values():
        short = pruner(model, {key: change(x) for key, x in inputs.items()})
        assert torch.equal(short["input_ids"], expected["input_ids"])
        for mine, theirs in zip(
            *(x["mm_encoder_outputs"]["image"].pooler_output for x in (short, expected)),
            strict=True,
        ):
            torch.testing.assert_close(mine, theirs)


def test_options_of_generate_stay_as_they_are():
    """Beside the inputs may stand lists of ids, of processors, or of nothing: none is a tensor of
    the model's.
    """
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show(48, 48)]))
    options = {
        "eos_token_id": [3, 5],
        "bad_words_ids": [[7], [8, 9]],
        "logits_processor": LogitsProcessorList(),
    }
    with AdaFV(keep=0.3).attached(model):
        out = model.generate(**inputs, **options, stopping_criteria=[], **GREEDY)
    assert out.shape[1] <= inputs["input_ids"].shape[1] + 4
    short = AdaFV(keep=0.3)(model, inputs | options)
    assert all(short[name] is value for name, value in options.items())


def test_what_is_no_prompt_is_one_sentence():
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show(48, 48)]))
    pruner, pixels = AdaFV(keep=0.3), {"pixel_values": inputs["pixel_values"]}
    for wrong, reason in (
        ({"inputs_embeds": torch.zeros(1, 40, 32), **pixels}, "lack input_ids"),
        (pixels, "lack input_ids"),
        ({"input_ids": [[1, 2], [3]], **pixels}, "unequal parts"),
        ({"input_ids": inputs["input_ids"].float(), **pixels}, "token ids"),
        ({"input_ids": inputs["input_ids"][0], **pixels}, r"pass a batch of prompts"),
        ({"input_ids": "what is this", **pixels}, "lack input_ids"),
        (inputs | {"attention_mask": torch.ones(1, 1, 4, 4)}, "attention_mask is"),
        (inputs | {"attention_mask": "all"}, "attention_mask is str"),
        ([1, 2, 3], "pass the dict"),
        (None, "pass the dict"),
    ):
        with pytest.raises(ValueError, match=reason):
            pruner(model, wrong)


def test_position_ids_of_the_callers():
    """One row for the whole batch, or numbers that begin elsewhere: less the placeholders that went
    before.
    """
    model, inputs = tiny("llava").model, two("llava")
    width = inputs["input_ids"].shape[1]
    numbers = torch.arange(7, 7 + width)[None]
    short = AdaFV(keep=0.3)(model, inputs | {"position_ids": numbers})
    for row, mask in enumerate(short["attention_mask"].bool()):
        own = short["position_ids"][row, mask]
        assert own.diff().eq(1).all()
        assert own[-1] - own[0] == mask.sum() - 1
    assert torch.equal(
        AdaFV(keep=1.0)(model, inputs | {"position_ids": numbers})["position_ids"], numbers
    )
