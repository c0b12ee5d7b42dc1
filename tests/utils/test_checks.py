"""Protects what an error is taken for: PyTorch's own are tried, so that a new wording shows."""

import numpy as np
import pytest
import torch

from adafv.utils.checks import is_out_of_memory


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_memory_that_cannot_be_had(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as info:
        allocate(10**15)
    assert is_out_of_memory(info.value)


def test_other_errors():
    with pytest.raises(RuntimeError) as info:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(info.value)
