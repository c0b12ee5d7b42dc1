"""What methods keep of images that never change: faster code must not choose otherwise."""

import json
from pathlib import Path

import pytest
import torch

from adafv.core.encode import encode
from adafv.data.suites import load_suite
from adafv.methods import method
from adafv.models.load import load
from adafv.models.prompting import build_batch

KEPT = json.loads((Path(__file__).parent / "kept.json").read_text())
"""By suite, question and method: indices at 5 %, before the selection was made faster, and since
words of the chat template are no words of the question; those of 2026 as they came. PruneSID is
left out: which of two near components a token loads on may hang on the processor."""


@pytest.fixture(scope="module")
def loaded():
    return load()


@pytest.mark.parametrize("suite", KEPT)
def test_the_same_tokens_are_kept(suite, loaded):
    """The accuracy tables were measured with this selection: the same tokens, to the last index."""
    model, processor = loaded
    pruners = {name: method(name, keep=0.05) for name in KEPT[suite][0]}
    signals = frozenset().union(*(pruner.signals for pruner in pruners.values()))
    questions = [
        (s.image, q.text) for s in load_suite(suite, len(KEPT[suite]), seed=5) for q in s.questions
    ]
    for (image, question), expected in zip(questions, KEPT[suite], strict=True):
        with torch.no_grad():
            tokens = encode(
                model, build_batch(processor, [image], [question], "cpu"), signals=signals
            ).tokens
        for name, pruner in pruners.items():
            assert (
                pruner.select(tokens, [pruner.budget(tokens.counts[0])]).kept[0].tolist()
                == expected[name]
            ), name
