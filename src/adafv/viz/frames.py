"""A montage of the frames of a video, and where on it the tokens lie."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from adafv.models.videos import Video
from adafv.utils.checks import checked
from adafv.viz.grid_box import grid_box
from adafv.viz.grids import Scale

__all__ = ["montage", "on_montage"]

WIDEST = 1600  # pixels of a montage


@checked
def on_montage(coordinates: Tensor, aspect: float, count: int) -> tuple[Scale, int]:
    """Return the grid of a montage on which all frames lie side by side, row after row.

    The montage is nearly a square.

    Args:
        coordinates: (N, 3) frame, row and column of a video's tokens, its first frame complete; see
            `adafv.families.crop_layout.Layout`.
        aspect: width of a frame over its height.
        count: frames that the model tells apart; the last ones may have no token, if they repeat.

    Returns:
        The grid, and how many frames there are across.
    """
    tokens = coordinates.numpy()  # (N, 3)
    first = tokens[tokens[:, 0] == tokens[0, 0]]  # (n, 3)
    rows, columns = (first[:, 1:].max(0) + 1).tolist()
    # rows run over all frames, one below the other
    frame, row = np.divmod(tokens[:, 1], rows)  # (N,) each
    across = min(count, max(1, round(math.sqrt(count / aspect))))
    down = math.ceil(count / across)
    cells = [frame // across * rows + row, frame % across * columns + tokens[:, 2]]
    shape = (down * rows, across * columns)
    return Scale(np.arange(len(tokens)), np.stack(cells, axis=1), shape), across


@checked
def montage(video: Video, processor: Any, across: int, count: int) -> Image.Image:
    """Return frames of a video side by side, as far as a model sees them.

    Args:
        processor: of the model.
        across: frames in a row.
        count: frames that the model tells apart; where several become one, the first is shown.
    """
    step = math.ceil(len(video.frames) / count)
    frames = [Image.fromarray(frame) for frame in video.frames[::step]]
    # frames are scaled and cut as an image of one crop is
    alone = SimpleNamespace(image_processor=processor.video_processor)
    box = grid_box(alone, frames[0].size, np.zeros((1, 3)))
    left, top, right, bottom = (round(edge) for edge in box)
    frames = [frame.crop((left, top, right, bottom)) for frame in frames]

    width, height = frames[0].size
    scale = min(1.0, WIDEST / (across * width))
    size = (round(width * scale), round(height * scale))
    found = Image.new("RGB", (across * size[0], math.ceil(count / across) * size[1]), "white")
    for i, frame in enumerate(frames):
        row, column = divmod(i, across)
        found.paste(frame.resize(size), (column * size[0], row * size[1]))
    return found
