"""Protects: the simulation of coarse-to-fine hides what would not be encoded, and equal times are
equal.
"""

from dataclasses import replace

import pytest
import torch
from coarse import TILES, Clock, Coarse, best_tiles
from conftest import inputs_for, picture, prompt, tiny_model, tiny_processor
from measure import KEEP, rivals
from report import ahead

from adafv import AdaFV, AdaFVPlus
from adafv.speed.shapes import QUESTION, SHAPES

pytestmark = pytest.mark.slow

NEXT = SHAPES["llava-next-7b"]


@pytest.fixture(scope="module")
def tokens():
    """Of two questions about images of a thumbnail and 2 × 2 tiles."""
    samples = [
        (prompt(text), [picture(seed=i)])
        for i, text in enumerate(("what color ?", "is there a knight ?"))
    ]
    inputs = inputs_for(tiny_processor("llava_next"), *samples)
    return AdaFV(keep=0.5).encode(tiny_model("llava_next"), inputs).tokens


@pytest.fixture(scope="module")
def clock():
    return Clock.of("7b", NEXT.config(), NEXT.processor(), QUESTION)


def coarse(fine, tiles, **options):
    return Coarse(fine=fine(keep=KEEP), tiles=tiles, tokens=20, **options)


def test_best_tiles_have_the_largest_geometric_mean_of_both_masses():
    """Much of one list weighs no more than some of both; equal tiles: the lower one; whatever the
    scale of a list.
    """
    tile = torch.tensor([1, 1, 2, 2, 3, 3, 4, 4])
    relevance = torch.tensor([5, 4, 2, 1, 0, 3, 2, 1.0])
    saliency = torch.tensor([0, 0.1, 0.3, 0.1, 0.4, 0.1, 0.1, 0.3])
    assert best_tiles(tile, relevance, saliency).tolist() == [3, 2, 4, 1]
    assert best_tiles(tile, 100 * relevance, saliency).tolist() == [3, 2, 4, 1]


@pytest.mark.parametrize("fine", [AdaFV, AdaFVPlus])
@pytest.mark.parametrize("tiles", range(TILES + 1))
def test_nothing_of_a_tile_that_is_not_encoded_is_looked_at(tokens, fine, tiles):
    """Whatever its features and saliency: not when the tiles are chosen, and not when the tokens
    are.
    """
    pruner = coarse(fine, tiles)
    seen = pruner.encoded(tokens)
    assert seen.sum(1).tolist() == [(1 + tiles) * 36] * 2
    assert seen[:, :36].all()
    noise = replace(
        tokens,
        features=tokens.features.masked_fill(~seen[..., None], torch.nan),
        signals={
            signal: values.masked_fill(~seen, torch.nan)
            for signal, values in tokens.signals.items()
        },
    )
    kept = pruner.select(tokens, [20, 20]).kept
    assert all(len(k) == 20 and there[k].all() for k, there in zip(kept, seen, strict=True))
    assert [k.tolist() for k in pruner.select(noise, [20, 20]).kept] == [k.tolist() for k in kept]


def test_hiding_a_tile_is_leaving_it_out(tokens):
    """The same tokens as of an image that consists of nothing but what is encoded."""
    pruner = coarse(AdaFV, 1)
    for i, seen in enumerate(pruner.encoded(tokens)):
        there = seen.nonzero()[:, 0]
        left = replace(
            tokens,
            features=tokens.features[i : i + 1, there],
            mask=tokens.mask[i : i + 1, there],
            counts=(len(there),),
            signals={signal: values[i : i + 1, there] for signal, values in tokens.signals.items()},
            text=tokens.text[i : i + 1],
            text_mask=tokens.text_mask[i : i + 1],
            coordinates=(tokens.coordinates[i][there],),
            seeds=tokens.seeds[i : i + 1],
        )
        (alone,) = AdaFV(tokens=20).select(left, [20]).kept
        assert there[alone].tolist() == pruner.select(tokens, [20, 20]).kept[i].tolist()


def test_all_tiles_are_plain_pruning(tokens):
    plain, ours = (
        p.select(tokens, [20, 20]).kept for p in (AdaFVPlus(tokens=20), coarse(AdaFVPlus, TILES))
    )
    assert [k.tolist() for k in ours] == [k.tolist() for k in plain]


def test_chance_draws_the_same_tiles_for_the_same_question(tokens):
    first, again = (coarse(AdaFV, 2, chance=True).encoded(tokens) for _ in range(2))
    assert torch.equal(first, again)
    assert first.sum(1).tolist() == [3 * 36] * 2


def test_equal_times_differ_by_less_than_a_token(clock):
    """And are at most as long as what they stand for; the tower's share is in them."""
    token = clock.flops(TILES, 1) - clock.flops(TILES, 1 - 1 / clock.tokens(TILES))
    for tiles in range(1, TILES):
        whole = clock.flops(tiles, KEEP)
        assert 0 <= whole - clock.flops(TILES, clock.affords(whole, TILES)) < token
        assert clock.flops(TILES, KEEP) - whole == pytest.approx(
            clock.vision(TILES) - clock.vision(tiles)
        )
    assert clock.tokens(TILES) == 2880


def test_time_for_nothing_and_for_everything(clock):
    """Where the tower alone takes longer no share is left; more than an image has cannot be
    read.
    """
    assert clock.affords(clock.vision(TILES), TILES) == 0
    assert clock.affords(clock.flops(TILES, 1), 1) == clock.tokens(1) / clock.tokens(TILES)


def test_rivals_take_turns_at_the_budget(clock):
    """Coarse reads more than 5 % in the time of plain pruning to 5 %, and plain less in that of
    coarse at 5 %.
    """
    found = list(rivals(clock, 720, range(1, TILES)))
    assert [tiles for tiles, *_ in found] == [1, 1, 2, 2, 3, 3]
    assert all(ours > plain and KEEP in (ours, plain) for _, ours, plain in found)


@pytest.mark.parametrize(
    ("suites", "won"),
    [
        ([(0.02, 0.01), (0.0, 1.0)], True),
        ([(0.02, 0.01), (-0.01, 0.5)], False),
        ([(0.02, 0.07), (0.0, 1.0)], False),
    ],
)
def test_ahead_is_worse_nowhere_and_better_beyond_luck_somewhere(suites, won):
    assert ahead([{"difference": difference, "p": p} for difference, p in suites]) is won
