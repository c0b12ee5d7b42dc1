"""Nested methods: one order serves every budget, whatever the image.

What would break silently is a method that claims an order and whose rule looks at the budget: an
evaluation orders once for all budgets, and would report what the method does not keep.
"""

import pytest
import torch

from adafv.core.nested import NestedPruner
from adafv.core.signals import HIDDEN, KEYS, SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.evaluation.oracle import Oracle
from adafv.methods import CLASSES, from_spec, method

NESTED = tuple(cls.name for cls in CLASSES if issubclass(cls, NestedPruner))
COUNTS = (15, 11, 15)
WIDTH, WORDS = 6, 4


def images(seed):
    """Random tokens of images of two sizes, with copies and ties among them."""
    draw = torch.Generator().manual_seed(seed)
    size = max(COUNTS)
    mask = torch.arange(size) < torch.tensor(COUNTS)[:, None]  # (I, N)
    features = torch.randn(len(COUNTS), size, WIDTH, generator=draw)  # (I, N, D)
    signals = {
        SALIENCY: torch.randn(len(COUNTS), size, generator=draw).softmax(-1),
        HIDDEN: torch.randn(len(COUNTS), size, WIDTH, generator=draw),
        KEYS: torch.randn(len(COUNTS), size, WIDTH, generator=draw),
    }
    for x in (features, *signals.values()):
        x[:, 9] = x[:, 4]
        x[:, 12:14] = x[:, 4:5]
        x[~mask] = 0
    rows = torch.arange(size)
    grid = torch.stack([torch.zeros_like(rows), rows // 5, rows % 5], dim=1)  # (N, 3)
    return VisualTokens(
        features=features,
        mask=mask,
        counts=COUNTS,
        signals=signals,
        text=torch.randn(len(COUNTS), WORDS, WIDTH, generator=draw),
        text_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool(),
        coordinates=tuple(grid[:count] for count in COUNTS),
        frames=(1,) * len(COUNTS),
        seeds=(3, 1, 4),
        layers=2,
    )


class Encoded:
    """As much of an encoding as a choice looks at."""

    downsampled = False

    def __init__(self, tokens):
        self.tokens = tokens


@pytest.mark.parametrize("spec", [*NESTED, "mmr:diversity=0", "scope:alpha=0"])
def test_every_budget_keeps_the_first_of_one_order(spec):
    """At each K the first K of the order are what `choose` keeps, also of a shorter order."""
    for seed in range(2):
        encoding = Encoded(images(seed))
        # `none` takes no other budget
        pruner = from_spec(spec) if spec == "none" else from_spec(spec, keep=1.0)
        assert pruner.nested
        order = pruner.order(encoding)
        assert [sorted(of_image.tolist()) for of_image in order] == [list(range(n)) for n in COUNTS]
        for k in range(1, max(COUNTS) + 1):
            budget = [min(k, count) for count in COUNTS]
            chosen = pruner.select(encoding.tokens, budget)
            assert chosen.features is None
            for of_image, kept, own in zip(order, chosen.kept, budget, strict=True):
                assert of_image[:own].sort().values.tolist() == kept.tolist(), (seed, k)

            # a shorter order is its beginning, and serves the smaller budgets
            for of_image, start in zip(order, pruner.order(encoding, k), strict=True):
                assert start.tolist() == of_image[:k].tolist()


def test_who_claims_an_order():
    """Rankings and greedy picks do; what splits a budget, merges or swaps doesn't."""
    assert set(NESTED) == {
        "cdpruner",
        "coverpruner",
        "divprune",
        "fastervlm",
        "mmr",
        "mmtok",
        "none",
        "random",
        "scope",
        "sfpruner",
        "t2i",
    }
    for name in ("adafv", "adafv+", "visionzip", "hired", "stacktok", "uniform", "fastv"):
        assert not method(name, keep=0.5).nested
    assert not Oracle(keep=0.5).nested


def test_what_has_no_order_says_so():
    """A method that is not nested, and crops that share a budget, are refused in one sentence."""
    encoding = Encoded(images(0))
    for pruner in (method("adafv", keep=0.5), method("scope", keep=0.5, crops="each")):
        with pytest.raises(ValueError, match=r"has no order.*call choose") as raised:
            pruner.order(encoding)
        assert pruner.name in str(raised.value)
    with pytest.raises(ValueError, match="encoded shrunk"):
        encoding.downsampled = True
        method("scope", keep=0.5).order(encoding)
