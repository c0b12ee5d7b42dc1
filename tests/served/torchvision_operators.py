"""Declares two operators, before torchvision is imported, that its build for CUDA lacks beside a
CPU build of PyTorch; nothing here calls them.

A .pth file imports this as Python starts, so PyTorch waits until somebody wants torchvision.
"""

import sys
from typing import Any


class Declaring:
    """Finds nothing, but sees what is imported before it is."""

    library: Any = None

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(cls)
            import torch

            # a library that nobody holds forgets what it defined
            cls.library = torch.library.Library("torchvision", "DEF")
            cls.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            cls.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, Declaring)
