"""`logits_to_keep` names the caller's positions, wherever a prompt is shortened."""

import pytest
import torch
from zoo.families import ask, show, tiny

from adafv import AdaFV, method

QUESTION = "what color is the anchor ?"
PRUNER = AdaFV(keep=0.4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_positions_are_the_callers_by_hand(name):
    """Of one prompt and of a batch that gets padding, as while the pruner is attached."""
    model = tiny(name).model
    samples = [(QUESTION, [show(80, 48)]), ("there a red " + QUESTION, [show(48, 48, 1)])]
    for inputs in (ask(name, samples[0]), ask(name, *samples)):
        whole = model(**PRUNER(model, inputs)).logits
        last = inputs["input_ids"].shape[1] - 1
        for wanted in (3, torch.tensor([last - 4, last]), torch.tensor([-2])):
            index = (
                slice(-3, None)
                if isinstance(wanted, int)
                else wanted.where(wanted < 0, wanted - last - 1)
            )
            asked = inputs | {"logits_to_keep": wanted}
            found = model(**PRUNER(model, asked)).logits
            torch.testing.assert_close(found, whole[:, index])
            encoding = PRUNER.encode(model, asked)
            with PRUNER.pruned(model, asked, encoding) as (short, _):
                assert torch.equal(model(**short).logits, found)
            with PRUNER.attached(model):
                assert torch.equal(model(**asked).logits, found)


def test_positions_of_dropped_tokens_are_refused_by_hand():
    """Also where later layers drop them, and nobody knows which."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show(80, 48)]))
    placeholders = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    every = inputs | {"logits_to_keep": placeholders}
    with pytest.raises(ValueError, match="dropped visual tokens"):
        PRUNER(model, every)
    layerwise = method("fastv", keep=0.7)
    with (
        pytest.raises(ValueError, match="later layers read"),
        layerwise.pruned(model, every, layerwise.encode(model, every)),
    ):
        pass
    whole = AdaFV(keep=1.0)(model, every)
    assert torch.equal(whole["logits_to_keep"], placeholders)
