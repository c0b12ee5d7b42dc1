"""A budget for each crop: for every method before the LLM, crops are images of their own, side by
side.
"""

from dataclasses import replace

import pytest
import torch
from conftest import BEFORE, INSIDE, inputs_for, picture, prompt, tiny_model, tiny_processor

from adafv import METHODS, method
from adafv.core.crop_batch import split_crops
from adafv.core.encode import encode
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.budget import split_budget
from adafv.ops.grid import places

SIGNALS = frozenset().union(*(METHODS[name](keep=1.0).signals for name in BEFORE))
EXACT = [name for name in BEFORE if METHODS[name].exact and name != "none"]


@pytest.fixture(scope="module")
def inputs():
    """Five crops, cut and uncut, and three."""
    return inputs_for(
        tiny_processor("llava_next"),
        (prompt("what color is the knight ?"), [picture()]),
        (prompt("how many ?"), [picture(60, 40, 1)]),
    )


@pytest.fixture(scope="module")
def tokens(inputs):
    return encode(tiny_model("llava_next"), inputs, signals=SIGNALS).tokens


def alone(tokens, i, crop, number):
    """A crop of image i as the only image of its batch, and which tokens of the image it holds."""
    inside = (tokens.coordinates[i][:, 0] == crop).nonzero()[:, 0]
    words = tokens.text_mask[i]
    of_crop = replace(
        tokens,
        features=tokens.features[i : i + 1, inside],
        mask=tokens.mask[i : i + 1, inside],
        counts=(len(inside),),
        signals={signal: x[i : i + 1, inside] for signal, x in tokens.signals.items()},
        text=tokens.text[i : i + 1, words],
        text_mask=tokens.text_mask[i : i + 1, words],
        coordinates=(tokens.coordinates[i][inside] * torch.tensor([0, 1, 1]),),
        frames=(1,),
        seeds=(tokens.seeds[i] + number,),
    )
    return of_crop, inside


@pytest.mark.parametrize("k", [3, 20, 61])
@pytest.mark.parametrize("name", EXACT)
def test_it_is_the_method_on_one_crop_after_the_other(tokens, name, k):
    """Crops of different sizes and budgets in one batch; a crop without a share keeps nothing."""
    selection = method(name, tokens=k, crops="each").select(tokens, [k, k])
    for i, kept in enumerate(selection.kept):
        crops, sizes = tokens.coordinates[i][:, 0].unique(return_counts=True)
        expected, features = [], []
        for number, share in enumerate(split_budget(k, sizes.tolist())):
            if share:
                of_crop, inside = alone(tokens, i, crops[number], number)
                found = method(name, tokens=k).select(of_crop, [share])
                expected.append(inside[found.kept[0]])
                features += found.features or []
        order = torch.cat(expected).argsort()
        assert torch.equal(kept, torch.cat(expected)[order])
        assert len(kept.unique()) == k
        if features:
            torch.testing.assert_close(
                selection.features[i], torch.cat(features)[order], rtol=1e-4, atol=1e-5
            )


def test_every_crop_keeps_its_share(tokens):
    """Exactly K, in proportion to the crops' tokens; what the mixture split is added up."""
    selection = method("adafv", tokens=50, crops="each").select(tokens, [50, 50])
    for coordinates, kept, split in zip(
        tokens.coordinates, selection.kept, selection.split, strict=True
    ):
        assert coordinates[kept, 0].bincount().tolist() == split_budget(
            50, coordinates[:, 0].bincount().tolist()
        )
        assert split.sum() >= 50


@pytest.mark.parametrize("name", BEFORE)
def test_keeping_all_is_the_identity(inputs, name):
    """Bit for bit, also for methods that merge."""
    model = tiny_model("llava_next")
    with torch.no_grad():
        pruned = method(name, keep=1.0, crops="each")(model, inputs)
        assert torch.equal(model(**pruned).logits, model(**inputs).logits)


def test_a_frame_is_as_large_as_the_first_one():
    """What is left of one whose other tokens repeat lies where it lies in the clip."""
    first = torch.cartesian_prod(torch.tensor([1]), torch.arange(3), torch.arange(6))
    corner = torch.tensor([[2, 4, 4], [2, 4, 5], [2, 5, 4], [2, 5, 5]])  # rows 1 and 2 of it
    coordinates = torch.cat([first, corner])
    count = len(coordinates)
    clip = VisualTokens(
        features=torch.randn(1, count, 8),
        mask=torch.ones(1, count, dtype=torch.bool),
        counts=(count,),
        signals={},
        text=None,
        text_mask=None,
        coordinates=(coordinates,),
        frames=(2,),
        seeds=(0,),
        layers=2,
    )
    crops = split_crops(clip, [count]).tokens
    grids = zip(crops.coordinates, crops.frames, crops.sizes, strict=True)
    found = [places(*grid) for grid in grids]
    assert torch.equal(torch.cat(found), places(coordinates, frames=2))


@pytest.mark.parametrize("name", EXACT)
def test_nothing_is_read_back_from_the_device(tokens, name):
    """Crops and shares are known from shapes."""
    on_meta = {key: x.to("meta") for key, x in vars(tokens).items() if isinstance(x, torch.Tensor)}
    on_meta["signals"] = {signal: x.to("meta") for signal, x in tokens.signals.items()}
    kept = method(name, tokens=30, crops="each").select(replace(tokens, **on_meta), [30, 30]).kept
    assert [k.shape for k in kept] == [(30,), (30,)]


@pytest.mark.parametrize("name", EXACT)
def test_one_crop_is_the_whole(name):
    """An image of one crop keeps the same tokens with either budget."""
    inputs = inputs_for(tiny_processor("llava"), (prompt("what color ?"), [picture()]))
    one = encode(tiny_model("llava"), inputs, signals=SIGNALS).tokens
    each, whole = (
        method(name, tokens=9, crops=crops).select(one, [9]).kept[0] for crops in ("each", "global")
    )
    assert torch.equal(each, whole)


@pytest.mark.parametrize("name", INSIDE)
def test_methods_inside_the_model_refuse_it(name):
    """A layer ranks all tokens of an image: one sentence, not an ignored option."""
    with pytest.raises(ValueError, match=r"crops='each'.*pass crops='global'"):
        method(name, keep=0.5, crops="each")
