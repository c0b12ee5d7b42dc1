"""Rivals on random tokens against plain loops: images of several crops, cut and uncut, of any
size.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import diversity as diversity_oracle
from oracles import sacmam as oracle
from oracles import tower as tower_oracle

from adafv import method
from adafv.core.signals import HIDDEN, KEYS, SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.hiprune import DEEP, MIDDLE
from adafv.ops.relevance import text_to_image_attention

DIMENSIONS, WORDS = 4, 3


@st.composite
def pictures(draw):
    """Tokens of an image, and a budget."""
    side = draw(st.integers(2, 4))
    places = [(0, row, column) for row in range(side) for column in range(side)]
    if draw(st.booleans()):  # two tiles side by side; padding was cut from above and below
        cut = draw(st.integers(0, side - 1))
        rows = range(cut, side)
        places += [(1 + column // side, row, column) for row in rows for column in range(2 * side)]
    count = len(places)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    signals = {}
    for signal in (SALIENCY, MIDDLE, DEEP):
        signals[signal] = torch.rand(1, count, generator=generator) / count
    for signal in (KEYS, HIDDEN):
        signals[signal] = torch.randn(1, count, DIMENSIONS, generator=generator)
    tokens = VisualTokens(
        features=torch.randn(1, count, DIMENSIONS, generator=generator),
        mask=torch.ones(1, count, dtype=torch.bool),
        counts=(count,),
        signals=signals,
        text=torch.randn(1, WORDS, DIMENSIONS, generator=generator),
        text_mask=torch.ones(1, WORDS, dtype=torch.bool),
        coordinates=(torch.tensor(places),),
        frames=(1,),
        seeds=(0,),
        layers=32,
    )
    return tokens, draw(st.integers(1, count))


def scores(tokens, signal):
    return tokens.signals[signal][0].tolist()


def vectors(tokens, signal):
    return tuple(tuple(vector) for vector in tokens.signals[signal][0].double().tolist())


def pick(name, tokens, k, **options):
    return method(name, tokens=k, **options).select(tokens, [k])


@given(pictures())
@settings(max_examples=150, deadline=None)
def test_vispruner(case):
    """Survivors keep the order in which a round leaves them."""
    tokens, k = case
    expected = tower_oracle.vispruner(scores(tokens, SALIENCY), vectors(tokens, HIDDEN), k, 0.5)
    assert pick("vispruner", tokens, k).kept[0].tolist() == expected


@given(pictures())
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize(("name", "spread"), [("prumerge", 0.0), ("prumerge+", 0.75)])
def test_prumerge(name, spread, case):
    """Neighbours are found among all other tokens, those that stay included."""
    tokens, k = case
    selection = pick(name, tokens, k, neighbours=5)
    kept, merged = tower_oracle.prumerge(
        scores(tokens, SALIENCY), vectors(tokens, KEYS), tokens.features[0].tolist(), k, spread, 5
    )
    assert selection.kept[0].tolist() == kept
    torch.testing.assert_close(selection.features[0], torch.tensor(merged), rtol=1e-4, atol=1e-5)


@given(pictures(), st.sampled_from([0.1, 0.5, 1.0]))
@settings(max_examples=150, deadline=None)
def test_hiprune(case, alpha):
    """A row goes on in the next, and the ends of a crop are its first and its last token."""
    tokens, k = case
    places = [tuple(place) for place in tokens.coordinates[0].tolist()]
    expected = tower_oracle.hiprune(scores(tokens, MIDDLE), scores(tokens, DEEP), places, k, alpha)
    assert pick("hiprune", tokens, k, alpha=alpha).kept[0].tolist() == expected


@given(pictures())
@settings(max_examples=100, deadline=None)
def test_mmtok(case):
    """Words cover after the projector, tokens before it."""
    tokens, k = case
    order = diversity_oracle.mmtok(
        tokens.features[0].double().tolist(),
        vectors(tokens, HIDDEN),
        tokens.text[0].double().tolist(),
    )
    assert pick("mmtok", tokens, k).kept[0].tolist() == sorted(order[:k])


@given(pictures(), st.sampled_from([0.0, 0.3, 2.0]))
@settings(max_examples=60, deadline=None)
def test_mmr(case, diversity):
    """Saliency less what is kept already; without diversity saliency alone."""
    tokens, k = case
    order = diversity_oracle.mmr(
        tokens.features[0].double().tolist(), scores(tokens, SALIENCY), diversity
    )
    assert pick("mmr", tokens, k, diversity=diversity).kept[0].tolist() == sorted(order[:k])


@given(pictures(), st.integers(0, WORDS))
@settings(max_examples=60, deadline=None)
def test_coverpruner(case, words):
    """Coverage around the mean token, and the demand of a question of any length."""
    tokens, k = case
    tokens.text_mask[0, words:] = False
    order = diversity_oracle.coverpruner(
        tokens.features[0].double().tolist(), tokens.text[0, :words].double().tolist()
    )
    assert pick("coverpruner", tokens, k).kept[0].tolist() == sorted(order[:k])


@given(pictures(), st.integers(0, WORDS), st.sampled_from([0.1, 1.0]))
@settings(max_examples=60, deadline=None)
def test_sfpruner(case, words, ridge):
    """The leverage in the space of the features is what the kernel of the tokens gives."""
    tokens, k = case
    tokens.text_mask[0, words:] = False
    expected = diversity_oracle.sfpruner(
        tokens.features[0].double().tolist(),
        tokens.text[0, :words].double().tolist(),
        scores(tokens, SALIENCY),
        k,
        ridge,
    )
    assert pick("sfpruner", tokens, k, ridge=ridge).kept[0].tolist() == expected


@given(pictures())
@settings(max_examples=60, deadline=None)
def test_prunesid(case):
    """Groups, survivors and quotas, beyond the rank of the features, too."""
    tokens, k = case
    expected = tower_oracle.prunesid(scores(tokens, SALIENCY), vectors(tokens, HIDDEN), k)
    assert pick("prunesid", tokens, k).kept[0].tolist() == expected


@given(pictures(), st.integers(0, WORDS), st.sampled_from([0, 3, 16]))
@settings(max_examples=30, deadline=None)
def test_stacktok(case, words, swaps):
    """Crops share the budget, and those that keep few tokens swap them."""
    tokens, k = case
    tokens.text_mask[0, words:] = False
    expected = diversity_oracle.stacktok(
        tokens.features[0].double().tolist(),
        vectors(tokens, HIDDEN),
        tokens.text[0, :words].double().tolist(),
        tokens.coordinates[0][:, 0].tolist(),
        k,
        swaps,
    )
    assert pick("stacktok", tokens, k, swaps=swaps).kept[0].tolist() == expected


@pytest.mark.parametrize("seed", [0, 45, 57, 69])
def test_stacktok_between_crops_that_tie(seed):
    """Of two tokens each covers half of its crop, whatever they are: the first of the crops."""
    generator = torch.Generator().manual_seed(seed)
    count = 4
    tokens = VisualTokens(
        features=torch.randn(1, count, DIMENSIONS, generator=generator),
        mask=torch.ones(1, count, dtype=torch.bool),
        counts=(count,),
        signals={HIDDEN: torch.randn(1, count, DIMENSIONS, generator=generator)},
        text=torch.zeros(1, WORDS, DIMENSIONS),
        text_mask=torch.zeros(1, WORDS, dtype=torch.bool),
        coordinates=(torch.tensor([(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]),),
        frames=(1,),
        seeds=(0,),
        layers=32,
    )
    assert pick("stacktok", tokens, 1, swaps=0).kept[0].item() < 2


@given(pictures())
@settings(max_examples=100, deadline=None)
def test_adafv_released(case):
    """Places are those in uncut tiles, whatever padding was cut off."""
    tokens, k = case
    count, crops = tokens.counts[0], int(tokens.coordinates[0][-1, 0]) + 1
    if 2 * crops <= k < count:
        relevance = text_to_image_attention(tokens.text, tokens.features)[0].tolist()
        places = tokens.coordinates[0].tolist()
        expected = oracle.released(relevance, scores(tokens, SALIENCY), places, k, 0.25)
        assert pick("adafv_released", tokens, k).kept[0].tolist() == expected
