"""Methods that compare the frames of a clip against plain loops, on random clips of which some
tokens repeat the frame before; and what AdaFV makes of such repeats.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import frames as oracle

from adafv import method
from adafv.core.config import PruneConfig
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.methods import METHODS, VIDEO_METHODS, from_config
from adafv.ops.budget import BudgetError
from adafv.ops.frames import change

DIMENSIONS = 6


def tokens_of(features, coordinates, frames):
    """A clip as methods see it; saliency is the same everywhere."""
    count = len(features)
    return VisualTokens(
        features=features[None],
        mask=torch.ones(1, count, dtype=torch.bool),
        counts=(count,),
        signals={SALIENCY: torch.full((1, count), 1 / count)},
        text=features[None, :2],
        text_mask=torch.ones(1, 2, dtype=torch.bool),
        coordinates=(coordinates,),
        frames=(frames,),
        seeds=(0,),
        layers=4,
    )


@st.composite
def clips(draw):
    """Tokens, the whole frames (F, P, D), which tokens are there (F, P), and a budget."""
    frames, rows, columns = (
        draw(st.integers(2, 5)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    places = rows * columns
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    whole = torch.randn(frames, places, DIMENSIONS, generator=generator)
    there = torch.rand(frames, places, generator=generator) < draw(st.sampled_from([0.5, 1.1]))
    there[0] = True
    for t in range(1, frames):
        whole[t] = whole[t].where(there[t][:, None], whole[t - 1])
    at = there.nonzero()
    row, column = at[:, 1] // columns, at[:, 1] % columns
    coordinates = torch.stack([at[:, 0] + 1, at[:, 0] * rows + row, column], dim=1)
    tokens = tokens_of(whole[there], coordinates, frames)
    return tokens, whole, there, draw(st.integers(1, len(at)))


def kept(tokens, there, k, name, **options):
    """What a method keeps, as frame and place."""
    selection = method(name, tokens=k, **options).select(tokens, [k])
    return [tuple(at) for at in there.nonzero()[selection.kept[0]].tolist()]


@given(clips())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("name", VIDEO_METHODS)
def test_as_the_loops(name, case):
    """Exactly K tokens, those of the loop, whatever the video repeats."""
    tokens, whole, there, k = case
    if name == "evs" and k < there.shape[1]:
        with pytest.raises(BudgetError, match="first frame whole"):
            kept(tokens, there, k, name)
        return
    expected = getattr(oracle, name)(whole.double().tolist(), there.tolist(), k)
    assert kept(tokens, there, k, name) == expected
    assert len(expected) == k


@given(clips(), st.sampled_from([0.2, 0.5, 1.0]))
@settings(max_examples=30, deadline=None)
def test_evs_below_a_frame(case, first):
    """No more of the first frame than its share, unless there is nothing else."""
    tokens, _, there, k = case
    found = kept(tokens, there, k, "evs", first=first)
    assert len(found) == k
    later = int(there[1:].sum())
    most = min(there.shape[1], int(first * k))
    assert sum(frame == 0 for frame, _ in found) == max(most, k - later)


def test_a_share_of_the_first_frame_is_not_off_by_one():
    """0.58 · 50 is 28.999… in floating point, and 29 tokens."""
    cells = torch.cartesian_prod(torch.arange(16), torch.arange(8))  # two frames of 8 × 8
    coordinates = torch.cat([cells[:, :1] // 8 + 1, cells], dim=1)
    tokens = tokens_of(torch.randn(128, DIMENSIONS), coordinates, 2)
    (kept,) = method("evs", tokens=50, first=0.58).select(tokens, [50]).kept
    assert int((kept < 64).sum()) == 29


@given(clips())
@settings(max_examples=30, deadline=None)
def test_change(case):
    """One minus the cosine to the same place of the frame before; in the first all is new."""
    tokens, whole, there, _ = case
    found = change(tokens.features[0], tokens.coordinates[0], tokens.frames[0])
    expected = torch.tensor(oracle.change(whole.double().tolist()), dtype=torch.double)[there]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", VIDEO_METHODS)
def test_an_image_has_no_frames_to_compare(name):
    """One sentence; what keeps everything is not refused."""
    coordinates = torch.tensor([(0, row, column) for row in range(3) for column in range(3)])
    tokens = tokens_of(torch.randn(9, DIMENSIONS), coordinates, 1)
    with pytest.raises(BudgetError, match="an image has none: choose a method for images"):
        method(name, tokens=4).select(tokens, [4])
    assert method(name, keep=1.0).select(tokens, [9]).kept[0].tolist() == list(range(9))
    with pytest.raises(ValueError, match="pass crops='global'"):
        method(name, keep=0.5, crops="each")


def test_known_by_name_but_not_among_the_methods_for_images():
    """Every matrix of tests, table and default runs over METHODS, whose members read images."""
    assert not METHODS.keys() & VIDEO_METHODS.keys()
    pruner = from_config(PruneConfig("evs", 0.5, None, {"first": 0.25}))
    assert pruner.spec == "evs:first=0.25"


def test_a_frame_that_repeats_the_last_gets_less():
    """Of three frames the second is nearly the first; `adafv+` needs no option for that."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(16, DIMENSIONS, generator=generator)
    second = first + 1e-2 * torch.randn(16, DIMENSIONS, generator=generator)
    third = torch.randn(16, DIMENSIONS, generator=generator)
    places = [(t + 1, 4 * t + p // 4, p % 4) for t in range(3) for p in range(16)]
    tokens = tokens_of(torch.cat([first, second, third]), torch.tensor(places), 3)

    def of_second(name, **options):
        found = method(name, tokens=12, **options).select(tokens, [12]).kept[0]
        assert len(found) == 12
        return int(((found >= 16) & (found < 32)).sum())

    assert of_second("adafv", repeats="discount") <= 1 < of_second("adafv")
    assert of_second("adafv+") <= 1
    image = tokens_of(first, torch.tensor(places[:16]) * torch.tensor([0, 1, 1]), 1)
    plain, discounted = (
        method("adafv", tokens=5, repeats=repeats).select(image, [5]).kept[0].tolist()
        for repeats in ("count", "discount")
    )
    assert plain == discounted
    with pytest.raises(ValueError, match=r"repeats='discount'.*crops='global'"):
        method("adafv", keep=0.5, repeats="discount", crops="each")
    with pytest.raises(ValueError, match="repeats='drop'"):
        method("adafv", keep=0.5, repeats="drop")
