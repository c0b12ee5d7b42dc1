"""Processors that want torchvision: the few of its functions that they call, done by torch."""

import sys
from contextlib import ExitStack
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
from transformers import utils, video_processing_utils
from transformers.utils import is_torchvision_available

PACKAGE = "torchvision.transforms.v2"


class InterpolationMode(Enum):
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


def resize(
    image: Tensor,
    size: tuple[int, int],
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    antialias: bool = True,
) -> Tensor:
    # videos: (videos, frames, 3, height, width)
    flat = image.float().reshape(-1, *image.shape[-3:])
    mode = interpolation.name.lower()  # torchvision's, or Pillow's
    out = F.interpolate(flat, tuple(size), mode=mode, antialias=antialias)
    out = out.reshape(*image.shape[:-2], *out.shape[-2:])
    return out.round().clamp(0, 255).to(image.dtype)


def pad(image: Tensor, padding: Any, fill: Any, padding_mode: str = "constant") -> Tensor:
    left, top, right, bottom = padding
    gray = fill if isinstance(fill, int | float) else fill[0]
    return F.pad(image, (left, right, top, bottom), padding_mode, gray)


def normalize(image: Tensor, mean: Any, std: Any, inplace: bool) -> Tensor:
    return (image - torch.as_tensor(mean)[:, None, None]) / torch.as_tensor(std)[:, None, None]


def grayscale_to_rgb(image: Tensor) -> Tensor:
    """Frames are in colour already."""
    return image


def without_torchvision(module: str, name: str) -> Any:
    """A class of a module in `transformers.models` that imports torchvision, without it."""
    path = f"transformers.models.{module}"
    if is_torchvision_available():
        return getattr(import_module(path), name)
    functional, package = ModuleType("functional"), ModuleType(PACKAGE)
    functional.__dict__.update(
        resize=resize,
        pad=pad,
        normalize=normalize,
        grayscale_to_rgb=grayscale_to_rgb,
        InterpolationMode=InterpolationMode,
        # what Ernie's imports, to write the time on frames
        pil_to_tensor=None,
        to_pil_image=None,
    )
    package.__dict__.update(functional=functional)
    outer, top = ModuleType("torchvision.transforms"), ModuleType("torchvision")
    outer.__dict__.update(
        v2=package, functional=functional, InterpolationMode=InterpolationMode, __path__=[]
    )
    top.__dict__.update(transforms=outer)
    modules = {
        "torchvision": top,
        outer.__name__: outer,
        f"{outer.__name__}.functional": functional,
        PACKAGE: package,
        f"{PACKAGE}.functional": functional,
    }
    backends.tvF = video_processing_utils.tvF = functional
    backends.pil_torch_interpolation_mapping = {
        Resampling[mode.name]: mode for mode in InterpolationMode
    }
    with patch.dict(sys.modules, modules), ExitStack() as stack:
        for function in ("is_torchvision_available", "is_torchvision_v2_available"):
            stack.enter_context(patch.object(utils, function, return_value=True))
        return getattr(import_module(path), name)
