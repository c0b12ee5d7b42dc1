"""SACMAM: the split is the paper's, the budget exact, whatever the scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sacmam import best_split, sacmam, sure

from adafv.ops.sacmam import mix, mix_naive

EXACT = st.integers(0, 4).map(float)
"""Small integers: ties everywhere, and fp64 sums that are exact."""
REAL = st.floats(0, 1, width=32, allow_subnormal=False)
PEAKED = st.sampled_from([0.0, 0.0, 1e-12, 1e-3, 1.0])


@st.composite
def cases(draw, scores=(EXACT, REAL, PEAKED), longest=12):
    n = draw(st.integers(1, longest))
    kind_t, kind_v = draw(st.sampled_from(scores)), draw(st.sampled_from(scores))
    relevance = draw(st.lists(kind_t, min_size=n, max_size=n))
    saliency = draw(st.lists(kind_v, min_size=n, max_size=n))
    return (
        relevance,
        saliency,
        draw(st.integers(1, n)),
        draw(st.sampled_from([0.0, 0.1, 0.25, 0.5])),
    )


def run(relevance, saliency, k, reserve, mass="whole"):
    mixture = mix(
        torch.tensor([relevance]),
        torch.tensor([saliency]),
        torch.tensor([k]),
        reserve=reserve,
        mass=mass,
    )
    return sorted(mixture.order[0, :k].tolist()), int(mixture.text), int(mixture.vision)


@pytest.mark.slow
@pytest.mark.parametrize("mass", ["whole", "beyond"])
@pytest.mark.parametrize("reserve", [0.0, 0.1, 0.25, 0.5])
def test_agrees_with_the_search_over_all_splits(reserve, mass):
    """The sort of gains finds what trying every split of every total finds, ties included; with
    "beyond", of the authors' product, which leaves the reserved mass out. 12,000 images at once.
    """
    images, longest = 1500, 12
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, longest + 1, (images,), generator=generator)
    budget = (torch.rand(images, generator=generator) * counts).long() + 1
    # small integers: ties everywhere, and fp64 sums that are exact
    highest = torch.randint(1, 5, (2, images, 1), generator=generator)
    drawn = torch.rand(2, images, longest, generator=generator)
    relevance, saliency = (drawn * (highest + 1)).floor()

    mask = torch.arange(longest) < counts[:, None]
    mixture = mix(relevance, saliency, budget, reserve=reserve, mass=mass, mask=mask)
    for i, (n, k) in enumerate(zip(counts.tolist(), budget.tolist(), strict=True)):
        kept = sorted(mixture.order[i, :k].tolist())
        found = kept, int(mixture.text[i]), int(mixture.vision[i])
        assert found == sacmam(
            relevance[i, :n].tolist(), saliency[i, :n].tolist(), k, reserve, mass
        )


@pytest.mark.slow
@given(cases(scores=(EXACT,)))
@settings(max_examples=500, deadline=None)
def test_agrees_with_the_search_one_by_one(case):
    """As above, in cases that shrink to the smallest that fails."""
    assert run(*case) == sacmam(*case)


@pytest.mark.slow
@given(cases(scores=(EXACT,)), st.sampled_from(["whole", "beyond"]))
@settings(max_examples=500, deadline=None)
def test_agrees_with_the_plain_form(case, mass):
    """`mix_naive`, which reads like the paper, and the fast form keep the same tokens."""
    relevance, saliency, k, reserve = case
    kept, k_t, k_v = mix_naive(
        torch.tensor(relevance), torch.tensor(saliency), k, reserve=reserve, mass=mass
    )
    assert (kept.tolist(), k_t, k_v) == run(*case, mass)


@given(cases(longest=200))
@settings(max_examples=100, deadline=None)
def test_budget_is_exact_and_nothing_is_nan(case):
    """Exactly K different tokens, for lists without mass, with peaks of any height, any length."""
    relevance, saliency, k, reserve = case
    kept, k_t, k_v = run(*case)
    assert len(set(kept)) == k
    assert k_t + k_v >= k
    assert k_t >= sure(relevance, k, reserve)
    assert k_v >= sure(saliency, k, reserve)


@pytest.mark.slow
@given(cases(scores=(REAL,), longest=10))
@settings(max_examples=500, deadline=None)
def test_split_is_optimal(case):
    """No other split of the same total captures a larger geometric mean, up to rounding."""
    relevance, saliency, k, reserve = case
    _, k_t, k_v = run(*case)

    def mass(k_t, k_v):
        return sum(sorted(relevance)[::-1][:k_t]) * sum(sorted(saliency)[::-1][:k_v])

    sure_t, sure_v = sure(relevance, k, reserve), sure(saliency, k, reserve)
    best = mass(*best_split(relevance, saliency, k_t + k_v, sure_t, sure_v))
    assert mass(k_t, k_v) >= best * (1 - 1e-12)


@given(cases(scores=(EXACT,)), st.sampled_from([0.5, 4.0, 1024.0]))
@settings(max_examples=200, deadline=None)
def test_scale_of_either_score_does_not_matter(case, factor):
    """The paper's reason for the geometric mean."""
    relevance, saliency, k, reserve = case
    assert run(relevance, [s * factor for s in saliency], k, reserve) == run(*case)


def test_without_overlap_it_is_the_papers_split():
    """Where the lists do not overlap the total is K."""
    relevance = [5.0, 4.0, 3.0, 0.0, 0.0, 0.0]
    saliency = [0.0, 0.0, 0.0, 5.0, 4.0, 3.0]
    kept, k_t, k_v = run(relevance, saliency, 4, 0.25)
    assert (k_t, k_v) == (2, 2)
    assert kept == [0, 1, 3, 4]


@pytest.mark.parametrize("mass", ["whole", "beyond"])
def test_where_nothing_is_asked_saliency_decides(mass):
    """No token is sure of its place for its number alone."""
    saliency = [0.1, 0.1, 0.1, 0.9, 0.8, 0.7, 0.6, 0.1]
    assert run([0.0] * 8, saliency, 4, 0.5, mass) == ([3, 4, 5, 6], 0, 4)
    # one word that is found in one token
    kept, k_t, _ = run([0.0] * 7 + [1.0], saliency, 4, 0.5, mass)
    assert (kept, k_t) == ([3, 4, 5, 7], 1)


def test_a_peaked_list_leaves_the_budget_to_the_other():
    """What makes the mixture adaptive."""
    peaked, flat = [1.0] + [1e-6] * 99, [0.01] * 100
    _, k_t, k_v = run(peaked, flat, 20, 0.0)
    assert k_t == 1
    assert k_v >= 19


def test_rows_of_a_batch_are_independent():
    """Padding and other budgets beside it change nothing."""
    torch.manual_seed(0)
    relevance, saliency = torch.rand(5, 30), torch.rand(5, 30)
    counts, budget = torch.tensor([30, 7, 12, 1, 20]), torch.tensor([9, 7, 1, 1, 10])
    mask = torch.arange(30) < counts[:, None]
    together = mix(relevance, saliency, budget, mask=mask)
    for b, (n, k) in enumerate(zip(counts.tolist(), budget.tolist(), strict=True)):
        alone = mix(relevance[b : b + 1, :n], saliency[b : b + 1, :n], budget[b : b + 1])
        assert together.order[b, :k].tolist() == alone.order[0, :k].tolist()
        assert (together.text[b], together.vision[b]) == (alone.text[0], alone.vision[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_scores(dtype):
    """Scores of any dtype are summed in fp64: ten thousand tiny ones still count."""
    scores = torch.full((1, 10_000), 1e-4, dtype=dtype)
    mixture = mix(scores, scores, torch.tensor([5000]), reserve=0.25)
    assert mixture.order[0, :5000].unique().numel() == 5000
    assert abs(int(mixture.text) - int(mixture.vision)) <= 1


def dropped(scores: torch.Tensor, reserve: float, mass: str) -> int:
    """Count the budgets after which the next larger one keeps less of what this one keeps."""
    count = scores.shape[1]
    budgets = torch.arange(1, count + 1)
    lists = scores[:, None].expand(2, count, count)
    order = mix(*lists, budgets, reserve=reserve, mass=mass).order  # (K, N)
    kept = torch.zeros(count, count, dtype=torch.bool)
    kept.scatter_(1, order, torch.arange(count) < budgets[:, None])
    return int((kept[:-1] & ~kept[1:]).any(1).sum())


@pytest.mark.parametrize("reserve", [0.0, 0.1, 0.25, 0.4, 0.5])
def test_a_larger_budget_keeps_all_that_a_smaller_one_keeps(reserve):
    """Whatever the reserve, with ties, peaks and lists without mass, but not with `beyond`."""
    draw = torch.Generator().manual_seed(0)
    lost = 0
    for trial in range(400):
        count = int(torch.randint(2, 24, (1,), generator=draw))
        plain = torch.rand(2, count, generator=draw)
        scores = [plain, (3 * plain).round(), plain**8, plain * (plain > 0.7)][trial % 4]
        assert dropped(scores, reserve, "whole") == 0
        lost += dropped(scores, reserve, "beyond")
    assert (lost > 0) == (reserve > 0)
