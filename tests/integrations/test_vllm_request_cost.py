"""Protects those who wait while tokens are chosen for somebody else."""

import pytest

from adafv import method
from adafv.integrations.vllm.request_cost import check_cost, check_costs, check_length, cost_of


def test_the_cost_of_a_choice_is_bounded():
    """Of methods that pick token after token, or factorise a matrix; the others go through."""
    with pytest.raises(ValueError, match=r"2592 steps .* at most adafv_tokens=86"):
        check_cost(method("divprune", keep=0.9), 2880)
    with pytest.raises(ValueError, match=r"a matrix of 5000 visual tokens.* at most 4096"):
        check_cost(method("sfpruner", keep=0.1), 5000)
    check_cost(method("divprune", tokens=86), 2880)
    check_cost(method("sfpruner", keep=0.9), 2880)
    check_cost(method("adafv", keep=0.9), 2880)


def test_the_length_of_a_question_is_bounded():
    """Of methods that compare each of its tokens with each of the image."""
    with pytest.raises(ValueError, match=r"a question of 20,000 tokens .* at most 11,650,"):
        check_length(method("adafv", keep=0.1), 20_000, 2880)
    check_length(method("adafv", keep=0.1), 4000, 2880)
    check_length(method("fastervlm", keep=0.1), 20_000, 2880)


def test_the_cost_of_all_choices_of_a_request_is_bounded():
    """As much as one image may take, or one of two sizes; linear methods take none of it."""
    largest = cost_of(method("divprune", tokens=86), 2880)
    check_costs([largest])
    with pytest.raises(ValueError, match=r"of 64 images takes 63.4 times .* at most 1 of this"):
        check_costs([largest] * 64)
    check_costs([cost_of(method("divprune", keep=0.1), 500)] * 10)
    with pytest.raises(ValueError, match=r"of 12 images takes 1.2 times .* at most 10 of this"):
        check_costs([cost_of(method("mmr", keep=0.1), 500)] * 12)
    # a matrix of twice the tokens takes eight times as long
    check_costs([cost_of(method("sfpruner", keep=0.1), 2048)] * 8)
    with pytest.raises(ValueError, match="smaller budget, or another method"):
        check_costs([cost_of(method("sfpruner", keep=0.1), 2048)] * 9)
    check_costs([cost_of(method("adafv", keep=0.9), 2880)] * 64)
