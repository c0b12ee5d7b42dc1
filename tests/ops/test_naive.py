"""Plain forms beside the fast ones: both say the same, and worked examples come out as written."""

import doctest
import inspect
import sys

import pytest
import torch

from adafv.ops.relevance import text_to_image_attention, text_to_image_attention_naive
from adafv.ops.sacmam import mix_naive
from adafv.ops.saliency import (
    cls_attention,
    cls_attention_naive,
    mean_cosine_distance,
    received_attention,
    received_attention_naive,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("function", [mix_naive])
def test_worked_examples(function):
    """A docstring's example is what the code does."""
    plain = inspect.unwrap(function)
    names = dict(vars(sys.modules[plain.__module__]))
    examples = doctest.DocTestFinder().find(plain, plain.__name__, globs=names)
    result = doctest.DocTestRunner().run(examples[0])
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_text_to_image_attention(temperature):
    text, visual = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    fast = text_to_image_attention(text, visual, temperature=temperature)
    for i in range(2):
        plain = text_to_image_attention_naive(text[i], visual[i], temperature=temperature)
        torch.testing.assert_close(fast[i], torch.tensor(plain), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fast", "plain"),
    [
        (cls_attention, cls_attention_naive),
        (received_attention, received_attention_naive),
    ],
)
def test_saliency(fast, plain):
    query, key = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    saliency = fast(query, key, 0.5)
    for i in range(2):
        torch.testing.assert_close(saliency[i], plain(query[i], key[i], 0.5))


def test_mean_cosine_distance():
    visual = torch.randn(5, 8)
    cosines = torch.nn.functional.cosine_similarity(visual[:, None], visual[None], dim=-1)
    torch.testing.assert_close(mean_cosine_distance(visual), 1 - cosines.mean(1))
