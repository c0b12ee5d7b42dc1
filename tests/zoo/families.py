"""A tiny random model of every family with its own processor: real classes, nothing downloaded."""

from zoo import crops, grids, llava, shapes, unseen
from zoo.base import ZOO, Tiny, ask, show, tiny

__all__ = ["ZOO", "Tiny", "ask", "crops", "grids", "llava", "shapes", "show", "tiny", "unseen"]
