"""Greedy coverage: the lazy form picks what the plain one does, and half of the cosines are all."""

import pytest
import torch

from adafv.ops.cosine import STRIP, cosines, pairwise_cosines
from adafv.ops.coverage import BLOCK, lazy_coverage, plain_coverage

COUNT = 3 * BLOCK + 5  # tokens: some blocks, and a part of one


def picks(gains, count):
    """The picks of each image, in their order."""
    found = []
    gain = next(gains)
    free = torch.ones_like(gain, dtype=torch.bool)
    for _ in range(count):
        found.append(gain.masked_fill(~free, -torch.inf).argmax(dim=1, keepdim=True))
        free = free.scatter(1, found[-1], False)
        gain = gains.send(found[-1])
    return torch.cat(found, dim=1)


def whole(high, *shape):
    """Whole numbers: their sums are exact, and many of them tie."""
    return torch.randint(high, shape).double()


@pytest.mark.parametrize("high", [2, 5, 1 << 20])
@pytest.mark.parametrize("count", [1, 7, COUNT])
def test_the_lazy_form_picks_what_the_plain_one_picks(high, count):
    """Down to the last token, which gains nothing; with ties, weights of 0 and padding."""
    torch.manual_seed(count)
    columns, weight = whole(high, 3, count, 40), whole(4, 3, count)
    columns[0, count // 2 :] = 0
    columns[1, :, 20:] = 0
    for own in (weight, torch.ones_like(weight)):
        lazy = picks(lazy_coverage(columns, own), count)
        assert torch.equal(lazy, picks(plain_coverage(columns, own), count))


def test_bounds_are_never_below_the_gains_and_the_largest_is_exact():
    """What a caller may rely on."""
    torch.manual_seed(0)
    columns = whole(1 << 20, 2, COUNT, 60)
    weight = torch.ones_like(columns[..., 0])
    lazy, plain = lazy_coverage(columns, weight), plain_coverage(columns, weight)
    bound, gain = next(lazy), next(plain)
    loose = 0
    for _ in range(12):
        assert (bound >= gain).all()
        assert torch.equal(bound.amax(1), gain.amax(1))
        loose += int((bound > gain).sum())
        pick = gain.argmax(dim=1, keepdim=True)
        bound, gain = lazy.send(pick), plain.send(pick)
    assert loose > 0


@pytest.mark.parametrize("count", [1, STRIP, STRIP + 1, 2 * STRIP + 30])
def test_half_of_the_cosines_are_all(count):
    """Of several images, into a part of a larger tensor, too."""
    torch.manual_seed(count)
    x = torch.randn(2, count, 8)
    x[1, -1] = 0
    cosine = pairwise_cosines(x)
    torch.testing.assert_close(cosine, cosines(x, x), rtol=0, atol=2.0**-40)
    assert torch.equal(cosine, cosine.mT)
    wider = torch.zeros(2, count, count + 3, dtype=torch.float64)
    pairwise_cosines(x, out=wider[..., 3:])
    assert torch.equal(wider[..., 3:], cosine)
    assert not wider[..., :3].any()
    assert torch.equal(pairwise_cosines(x, then=torch.Tensor.relu_), cosine.relu())
