"""What methods keep of images that never change: faster code must not choose otherwise.

`python tests/methods/test_kept_indices.py NAME …` records what methods keep of the first suite.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from adafv.core.encode import encode
from adafv.data.suites import load_suite
from adafv.methods import method
from adafv.models.load import load
from adafv.models.prompting import build_batch

FILE = Path(__file__).parent / "kept.json"
KEPT = json.loads(FILE.read_text())
"""By suite, question and method: indices at 5 %, before the selection was made faster, and since
words of the chat template are no words of the question; those of 2026 as they came. PruneSID is
left out: which of two near components a token loads on may hang on the processor."""


@pytest.fixture(scope="module")
def loaded():
    return load()


@torch.no_grad()
def kept(suite: str, names: Iterable[str], loaded) -> list[dict[str, list[int]]]:
    """Return by question and method the indices that are kept."""
    model, processor = loaded
    pruners = {name: method(name, keep=0.05) for name in names}
    signals = frozenset().union(*(pruner.signals for pruner in pruners.values()))
    questions = [
        (s.image, q.text) for s in load_suite(suite, len(KEPT[suite]), seed=5) for q in s.questions
    ]
    rows = []
    for image, question in questions:
        inputs = build_batch(processor, [image], [question], "cpu")
        tokens = encode(model, inputs, signals=signals).tokens
        row = {}
        for name, pruner in pruners.items():
            budget = [pruner.budget(tokens.counts[0])]
            row[name] = pruner.select(tokens, budget).kept[0].tolist()
        rows.append(row)
    return rows


@pytest.mark.parametrize("suite", KEPT)
def test_the_same_tokens_are_kept(suite, loaded):
    """The accuracy tables were measured with this selection: the same tokens, to the last index."""
    assert kept(suite, KEPT[suite][0], loaded) == KEPT[suite]


def record(names: list[str]) -> None:
    """Add what methods keep of the first suite to the file, a line for each question."""
    first = next(iter(KEPT))
    for row, new in zip(KEPT[first], kept(first, names, load()), strict=True):
        row.update(new)
    suites = []
    for suite, rows in KEPT.items():
        lines = ",\n".join(json.dumps(row) for row in rows)
        suites.append(f'"{suite}": [{lines}]')
    FILE.write_text("{\n" + ",\n".join(suites) + "\n}\n")


if __name__ == "__main__":
    record(sys.argv[1:])
