"""The greedy methods on a thousand random images, each against its paper in plain loops."""

import pytest
import torch
from oracles import diversity

from adafv.core.signals import HIDDEN, SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.cdpruner import CDPruner
from adafv.methods.divprune import DivPrune
from adafv.methods.mmtok import MMTok
from adafv.methods.scope import Scope

CASES, IMAGES = 1000, 50
COUNT, WIDTH, WORDS = 12, 6, 3
METHODS = (DivPrune, CDPruner, Scope, MMTok)


def images(seed):
    """Random tokens in which one is another's copy."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(IMAGES, COUNT, WIDTH, generator=draw)  # (I, N, D)
    hidden = torch.randn(IMAGES, COUNT, WIDTH, generator=draw)
    saliency = torch.randn(IMAGES, COUNT, generator=draw).softmax(-1)  # (I, N)
    for x in (features, hidden, saliency):
        x[:, 9] = x[:, 4]
    return VisualTokens(
        features=features,
        mask=torch.ones(IMAGES, COUNT, dtype=torch.bool),
        counts=(COUNT,) * IMAGES,
        signals={SALIENCY: saliency, HIDDEN: hidden},
        text=torch.randn(IMAGES, WORDS, WIDTH, generator=draw),
        text_mask=torch.ones(IMAGES, WORDS, dtype=torch.bool),
        coordinates=(torch.zeros(COUNT, 3, dtype=torch.long),) * IMAGES,
        frames=(1,) * IMAGES,
        seeds=(0,) * IMAGES,
        layers=2,
    )


def order(cls, tokens, i):
    """All tokens of image i, in the order in which the oracle picks them."""
    visual, words = tokens.features[i].tolist(), tokens.text[i].tolist()
    if cls is DivPrune:
        return diversity.divprune(visual)
    if cls is CDPruner:
        return diversity.cdpruner(visual, words)
    if cls is Scope:
        return diversity.scope(visual, tokens.saliency[i].tolist(), 1.0)
    return diversity.mmtok(visual, tokens.signals[HIDDEN][i].tolist(), words)


@pytest.mark.slow
@pytest.mark.parametrize("cls", METHODS)
def test_a_thousand_random_images(cls):
    """No kept set differs from the oracle's, in fp64, at any of the budgets."""
    different = 0
    for seed in range(CASES // IMAGES):
        tokens = images(seed)
        budget = [1 + (seed + i) % (COUNT - 1) for i in range(IMAGES)]
        kept = cls(tokens=1).select(tokens, budget).kept
        for i, k in enumerate(budget):
            different += kept[i].tolist() != sorted(order(cls, tokens, i)[:k])
    print(f"{cls.name}: {different / CASES:.1%} of {CASES} kept sets differ")
    assert different == 0
