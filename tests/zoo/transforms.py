"""Processors that want torchvision: the three of its functions that they call, done by torch."""

import sys
from enum import Enum
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from PIL.Image import Resampling
from torch import Tensor
from transformers import image_processing_backends as backends
from transformers.utils import is_torchvision_available

PACKAGE = "torchvision.transforms.v2"


class InterpolationMode(Enum):
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


def resize(
    image: Tensor, size: tuple[int, int], interpolation: InterpolationMode, antialias: bool
) -> Tensor:
    out = F.interpolate(image.float(), tuple(size), mode=interpolation.value, antialias=antialias)
    return out.round().clamp(0, 255).to(image.dtype)


def pad(image: Tensor, padding: Any, fill: Any, padding_mode: str = "constant") -> Tensor:
    left, top, right, bottom = padding
    gray = fill if isinstance(fill, int | float) else fill[0]
    return F.pad(image, (left, right, top, bottom), padding_mode, gray)


def normalize(image: Tensor, mean: Any, std: Any, inplace: bool) -> Tensor:
    return (image - torch.as_tensor(mean)[:, None, None]) / torch.as_tensor(std)[:, None, None]


def without_torchvision(module: str, name: str) -> Any:
    """A class of a module in `transformers.models` that imports torchvision, without it."""
    path = f"transformers.models.{module}"
    if is_torchvision_available():
        return getattr(import_module(path), name)
    functional, package = ModuleType("functional"), ModuleType(PACKAGE)
    functional.__dict__.update(
        resize=resize, pad=pad, normalize=normalize, InterpolationMode=InterpolationMode
    )
    package.__dict__.update(functional=functional)
    backends.tvF = functional
    backends.pil_torch_interpolation_mapping = {
        Resampling[mode.name]: mode for mode in InterpolationMode
    }
    with patch.dict(sys.modules, {PACKAGE: package}):
        return getattr(import_module(path), name)
