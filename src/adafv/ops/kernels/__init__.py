"""Kernels in Triton, for those who ask for them: `ADAFV_KERNELS=triton` in the environment.

They keep the tokens that the PyTorch forms keep, which remain the default: no GPU has run them yet.
Triton is imported when the first kernel is called.
"""

import os
from importlib.util import find_spec

import torch

from adafv.utils.checks import checked, one_of

__all__ = ["LONGEST", "SWITCH", "wanted"]

SWITCH = "ADAFV_KERNELS"  # "torch", or unset: the PyTorch forms; "triton": the kernels
LONGEST = 8192  # tokens of an image that the mixture's kernel takes; with more it is PyTorch's form


@checked
def wanted(device: torch.device) -> bool:
    """Tell whether the environment asks for kernels, on a device that can run them.

    Args:
        device: where the tensors are: CUDA, or any with `TRITON_INTERPRET=1`, for tests.

    Raises:
        ValueError: if it asks for something unknown, without Triton, or on another device.
    """
    choice = os.environ.get(SWITCH) or "torch"
    one_of(SWITCH, choice, "torch", "triton")
    if choice == "torch":
        return False
    if find_spec("triton") is None:
        raise ValueError(
            f"{SWITCH}=triton needs Triton, which is not installed: pip install 'adafv[kernels]'"
        )
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"{SWITCH}=triton cannot run on {device}: move the model to CUDA, or unset {SWITCH}"
        )
    return True
