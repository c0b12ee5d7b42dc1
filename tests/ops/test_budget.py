"""How many tokens are kept: of a share, of a number, and of a budget that is split.

That a budget out of range is an error stands in tests/core/test_invariants.py, for pruners.
"""

import pytest
import torch

from adafv import AdaFV, method
from adafv.ops.budget import check_share, num_keep, refuse_auto, share_of, split_budget


@pytest.mark.parametrize(
    ("count", "budget", "kept"),
    [
        (576, {"keep": 0.05}, 29),
        (10, {"keep": 0.25}, 3),
        (10, {"keep": 0.24}, 2),
        (7, {"keep": 0.01}, 1),
        (7, {"keep": 1.0}, 7),
        (50, {"keep": 0.57}, 29),
        (350, {"keep": 0.35}, 123),
        (7, {"tokens": 3}, 3),
        (7, {"tokens": 10_000}, 7),
    ],
)
def test_a_half_is_rounded_up_and_one_token_stays(count, budget, kept):
    assert num_keep(count, **budget) == kept


def test_a_share_of_a_budget_is_rounded_down():
    """Not one below what it is: 0.29 · 100 is less than 29 in floating point."""
    assert [share_of(k, 0.29) for k in (100, 99, 3)] == [29, 28, 0]
    assert share_of(torch.tensor([100, 99, 3]), 0.29).tolist() == [29, 28, 0]


def test_a_budget_is_split_exactly():
    """Largest remainders first; nothing lost, nothing won."""
    assert split_budget(7, [10, 10, 10]) == [3, 2, 2]
    assert split_budget(1, [36, 144]) == [0, 1]
    assert split_budget(180, [36, 144]) == [36, 144]
    assert split_budget(3, [1] * 10) == [1, 1, 1] + [0] * 7


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_share_of_the_budget_lies_between_0_and_1(value):
    check_share("reserve", 0.0)
    check_share("reserve", 1.0)
    with pytest.raises(ValueError, match=r"reserve=.* is not a share of the budget"):
        check_share("reserve", value)


@pytest.mark.parametrize(
    "made",
    [
        lambda: AdaFV(keep="auto"),
        lambda: AdaFV(keep="auto", quality=0.98),
        lambda: method("scope", keep="auto"),
        lambda: refuse_auto("auto"),
    ],
)
def test_a_budget_that_finds_itself_is_refused_with_the_page_that_says_why(made):
    """Whether or not an option that would go with it is unknown, too."""
    with pytest.raises(ValueError, match=r"^keep='auto' does not exist.*choosing-a-budget\.md.*"):
        made()
