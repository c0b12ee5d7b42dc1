"""Ranks that share out images: none is left out, and the work is even."""

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from adafv.integrations.vllm.encoder_ranks import shares


def test_the_largest_images_come_first():
    assert shares([10, 40, 20, 30], ranks=2) == [[1, 0], [3, 2]]
    assert shares([5], ranks=3) == [[0], [], []]
    assert shares([], ranks=2) == [[], []]
