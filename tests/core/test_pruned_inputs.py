"""Pruned inputs are the caller's to use again: `generate` repeats images for beams and samples, and
leaves nothing of that behind.
"""

from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from zoo.families import ask, show, tiny

from adafv import AdaFV

QUESTION = "what color is the anchor ?"
PRUNER = AdaFV(keep=0.4)
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "samples": {"do_sample": True, "num_return_sequences": 2},
}


def batch(name: str) -> dict[str, Any]:
    """Two prompts whose images keep different numbers of tokens where they may differ."""
    return ask(name, (QUESTION, [show(80, 48)]), ("there a red " + QUESTION, [show(48, 48, 1)]))


def answers(model, inputs: dict[str, Any], way: str) -> list[list[int]]:
    torch.manual_seed(0)
    options = {"max_new_tokens": 3, "do_sample": False} | WAYS[way]
    return model.generate(**inputs, **options)[:, -3:].tolist()


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl"])
def test_inputs_are_used_again(name):
    """After every way to generate, every other gives what it gives alone: from the inputs, from
    more inputs, from a copy; and a plain dict of them is repeated rightly, too.
    """
    model, inputs = tiny(name).model, batch(name)
    expected = {way: answers(model, PRUNER(model, inputs), way) for way in WAYS}
    for first, second in product(WAYS, WAYS):
        short = PRUNER(model, inputs)
        assert answers(model, short, first) == expected[first]
        assert answers(model, short, second) == expected[second]
    more = short | {"use_cache": True}
    plain = dict(short)
    for way in WAYS:
        assert answers(model, more, way) == expected[way]
        assert answers(model, deepcopy(short), way) == expected[way]
        if way != "greedy":
            assert answers(model, plain, way) == expected[way]


def test_inputs_are_used_again_while_a_pruner_is_attached():
    """It passes them on."""
    model = tiny("llava").model
    short = PRUNER(model, batch("llava"))
    expected = answers(model, PRUNER(model, batch("llava")), "beams")
    with PRUNER.attached(model):
        assert answers(model, short, "beams") == answers(model, short, "beams") == expected


def test_a_model_whose_images_transformers_does_not_repeat():
    """One sentence, by hand and attached; the plain model fails at the number of features."""
    model, inputs = tiny("llama4").model, ask("llama4", (QUESTION, [show()]))
    short = PRUNER(model, inputs)
    assert len(answers(model, short, "greedy")) == 1
    for way in ("beams", "samples"):
        with pytest.raises(ValueError, match="does not repeat the encoded images"):
            answers(model, short, way)
        with (
            PRUNER.attached(model),
            pytest.raises(ValueError, match="does not repeat the encoded images"),
        ):
            answers(model, inputs, way)
