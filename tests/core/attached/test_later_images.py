"""Images of a later turn in a batch of chats whose cache is kept: each row is what it is alone."""

from typing import Any

import pytest
import torch
from torch import Tensor
from zoo.families import show, tiny

from adafv import method
from tests.core.attached.test_cached_prompt import (
    ANOTHER,
    FIRST,
    along,
    greedy,
    pixels,
    prepared,
    text_of,
)

PRUNER = method("uniform", tokens=4)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def logits_of(name: str, rows: list[int], texts: list[str | None]) -> Tensor:
    """Logits behind the second turns of some chats: None repeats a word instead of an image."""
    model, images = tiny(name).model, [[show(48, 48, row)] for row in rows]
    first = prepared(name, [FIRST] * len(rows), images)
    turn = prepared(name, [ANOTHER], [[show(48, 48, 2)]])
    width = turn["input_ids"].shape[1]
    word = text_of(name, "red " * width, 1)[:, :width]
    with_image = [texts[row] is not None for row in rows]

    def beside(x: Tensor, other: Tensor) -> Tensor:
        return torch.cat([x if shown else other for shown in with_image])

    new: dict[str, Any] = {"input_ids": beside(turn["input_ids"], word)}
    for key in along(turn):
        new[key] = beside(turn[key], torch.zeros_like(turn[key]))
    if any(with_image):
        shown = [text for row, text in enumerate(texts) if row in rows and text is not None]
        new |= pixels(prepared(name, shown, [[show(48, 48, 2)]] * len(shown)))
    with torch.no_grad(), PRUNER.attached(model):
        out = model.generate(**first, **greedy(model), return_dict_in_generate=True)
        last = out.sequences[:, -1:]
        read = out.sequences.shape[1] - 1
        zeros = torch.zeros_like(last)
        full = {"input_ids": torch.cat([last, new["input_ids"]], dim=1)}
        for key in along(turn):
            full[key] = torch.cat([zeros, new[key]], dim=1)
        mask = torch.ones(len(rows), read + 1 + width, dtype=torch.long)
        mask[:, : first["attention_mask"].shape[1]] = first["attention_mask"]
        output = model(
            **new | full, attention_mask=mask, past_key_values=out.past_key_values, use_cache=True
        )
    return output.logits[:, -1]


@pytest.mark.parametrize("name", ["lfm3_vl", "gemma3", "llava"])
def test_rows_that_lose_as_much_go_on_together(name):
    """Nothing is padded, so that layers with a state read what they read alone."""
    texts = [ANOTHER, ANOTHER]
    together = logits_of(name, [0, 1], texts)
    for row in range(2):
        torch.testing.assert_close(together[row], logits_of(name, [row], texts)[0], **CLOSE)


def test_padding_between_turns_is_masked():
    """Attention does not see it."""
    texts = [ANOTHER, None]
    together = logits_of("llava", [0, 1], texts)
    for row in range(2):
        torch.testing.assert_close(together[row], logits_of("llava", [row], texts)[0], **CLOSE)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("lfm2_vl", "conv"), ("qwen3_5", "linear_attention"), ("gemma3", "sliding_attention")],
)
def test_padding_between_turns_is_refused_where_it_counts(name, kind):
    """A state takes it in, and a sliding window ends earlier for it, in spite of the mask."""
    with pytest.raises(ValueError, match=f"no row may get padding .* layers of {kind}"):
        logits_of(name, [0, 1], [ANOTHER, None])
    assert len(logits_of(name, [0], [ANOTHER, None])) == 1
