"""Protects: what is said of many comparisons is corrected for all of them."""

import pytest

from adafv.utils.stats import holm


def test_holm_corrects_the_smallest_for_all_and_the_largest_for_itself():
    """In the order given, and never smaller than that of a smaller one."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.02, 0.9, 0.4]) == pytest.approx([0.06, 0.9, 0.8])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
