"""Where tokens lie on an image, held against what its pixels became."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import PatchCollection
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil
from transformers.vision_utils import get_vision_window_index
from zoo.families import ZOO, ask, show, tiny

from adafv import method
from adafv.core.encode import encode
from adafv.evaluation.boxes import distances, patches
from adafv.families import FAMILIES
from adafv.families.base import pixels_of
from adafv.families.crop_layout import Layout, join, raster
from adafv.viz import explanation, grid_box

SIZES = ((60, 20), (20, 60), (52, 36))
CLOSE = 1 / 3  # of a token: tiny images are scaled to whole pixels, and unpadded to whole patches
SQUARE = {"height": 24, "width": 24}


def probes(width: int, height: int) -> list[Image.Image]:
    """Black, white, and grey that rises from left to right and from top to bottom."""
    across = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    down = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    found = []
    for share in (np.zeros_like(across), np.ones_like(across), across, down):
        pixels = np.round(255 * share).astype(np.uint8)
        found.append(Image.fromarray(np.repeat(pixels[..., None], 3, axis=2)))
    return found


def by_patch(inputs: dict[str, Any], count: int) -> Tensor:
    """Return the pixels (count, values) of each patch, in the order of the tower."""
    pixels = pixels_of(inputs).float()
    if inputs.get("image_grid_thw") is not None or pixels.dim() == 3:
        return pixels.reshape(count, -1)
    pixels = pixels.reshape(-1, *pixels.shape[-3:])  # (crops, 3, height, width)
    edge = round((len(pixels) * pixels[0, 0].numel() / count) ** 0.5)
    squares = pixels.unfold(2, edge, edge).unfold(3, edge, edge)
    return squares.permute(0, 2, 3, 1, 4, 5).reshape(count, -1)


def shown(of_probes: list[Tensor], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each token how much of it shows the image, and the middle of what it shows.

    Args:
        of_probes: (patches, values) of each of `probes`.

    Returns:
        (N,) a share of the token, and shares of the image's width and height.
    """
    black, white, across, down = of_probes
    tokens = layout.patches[layout.patch_indices]  # (N, m)
    # padding is the same whatever the image
    seen = (white - black)[tokens].flatten(1).sum(1)  # (N,)
    x = (across - black)[tokens].flatten(1).sum(1) / seen
    y = (down - black)[tokens].flatten(1).sum(1) / seen
    return seen / seen.max(), x, y


def check(processor: Any, size: tuple[int, int], layout: Layout, of_probes: list[Tensor]) -> None:
    """Hold what `patches` says of each token against what its pixels became."""
    share, across, down = (values.numpy() for values in shown(of_probes, layout))
    width, height = size
    x, y, half_width, half_height = patches(
        processor, size, layout.coordinates[layout.patch_indices]
    ).T
    # what of each token lies on the image
    left, right = (x - half_width).clip(0, width), (x + half_width).clip(0, width)
    top, bottom = (y - half_height).clip(0, height), (y + half_height).clip(0, height)
    expected = (right - left) * (bottom - top) / (4 * half_width * half_height)
    np.testing.assert_allclose(share, expected, atol=CLOSE)
    # the middle of what hardly shows is not known
    sure = expected > CLOSE
    assert sure.any()
    off_x = abs((left + right) / 2 - across * width)[sure] / (2 * half_width[sure])
    off_y = abs((top + bottom) / 2 - down * height)[sure] / (2 * half_height[sure])
    assert off_x.max() < CLOSE
    assert off_y.max() < CLOSE


@cache
def with_grid() -> list[str]:
    """Families whose tokens have coordinates in the image."""
    return [name for name in sorted(ZOO) if FAMILIES[name].has_grid]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", with_grid())
def test_a_token_lies_where_the_processor_put_its_pixels(name, size):
    """Whatever is cut, padded, tiled or squashed on the way."""
    found = tiny(name)
    prepared = [ask(name, ("what color ?", [probe])) for probe in probes(*size)]
    encoding = encode(found.model, prepared[0], signals=(), text=False)
    lengths = [len(features) for features in encoding.features]
    (layout,) = FAMILIES[name].layouts(found.model, prepared[0], None, lengths)
    order = windows(found.model.config, prepared[0], layout)
    of_probes = [by_patch(inputs, layout.size)[order] for inputs in prepared]
    check(found.processor, size, layout, of_probes)


def windows(config: Any, inputs: dict[str, Any], layout: Layout) -> Tensor:
    """Return the order (patches,) in which a tower that attends within windows reads pixels."""
    everything = torch.arange(layout.size)
    vision = getattr(config, "vision_config", None)
    if getattr(vision, "window_size", None) is None:
        return everything
    merge = vision.spatial_merge_size
    grid = inputs["image_grid_thw"]
    order = get_vision_window_index(grid, merge, vision.window_size, vision.patch_size)[0]
    return everything.view(-1, merge**2)[order].flatten()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "images",
    [
        LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 24}, crop_size=SQUARE),
        LlavaImageProcessorPil(size={"shortest_edge": 24}, crop_size=SQUARE),
        CLIPImageProcessorPil(size={"height": 32, "width": 32}, crop_size=SQUARE),
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SQUARE),
        CLIPImageProcessorPil(size={"height": 24, "width": 24}, do_center_crop=False),
        CLIPImageProcessorPil(do_resize=False, crop_size=SQUARE),
    ],
    ids=["padded", "cut", "squashed and cut", "cut beyond its edges", "squashed", "not scaled"],
)
def test_processors_of_single_crops(images, size):
    """LLaVA's processor pads where it is told to; a crop larger than the image is padded, too."""
    prepared = [dict(images(probe, return_tensors="pt")) for probe in probes(*size)]
    layout = join([raster(6, 6)])
    of_probes = [by_patch(inputs, layout.size) for inputs in prepared]
    check(SimpleNamespace(image_processor=images), size, layout, of_probes)


def test_padding_lies_beyond_the_image():
    """Above and below a wide image that becomes a square, right and below in Kimi's grid."""
    coordinates = np.zeros((1, 3))
    assert grid_box(tiny("janus").processor, (60, 20), coordinates) == (0, -20, 60, 40)
    assert grid_box(tiny("deepseek_vl").processor, (20, 60), coordinates) == (-20, 0, 40, 60)
    assert grid_box(tiny("kimi_k25").processor, (60, 20), coordinates) == (0, 0, 64, 24)


def test_tokens_of_padding_hold_no_evidence():
    """A question about all of a padded image has the middle rows of the grid, and no others."""
    coordinates = torch.cartesian_prod(torch.zeros(1).long(), torch.arange(6), torch.arange(6))
    grid = patches(tiny("janus").processor, (60, 20), coordinates)
    inside = distances(grid, ((0, 0, 60, 20),)).isfinite().any(1).view(6, 6)
    assert inside.all(1).tolist() == [False, False, True, True, False, False]
    assert not inside[[0, 1, 4, 5]].any()


def test_a_padded_image_is_drawn_within_its_panel():
    """No frame lies beside it, none of the patches on it is missing, and a word says why."""
    found = tiny("janus")
    what = explanation(
        found.model, found.processor, show(60, 20), "what color ?", method("uniform", keep=0.5), 2
    )
    page = what.figure()
    written = {text.get_text() for text in page.texts}
    assert "padding, too." in written
    beyond = int(what.maps[0].kept[[0, 1, 4, 5]].sum())
    assert f"{beyond} show padding" in written
    (frames,) = page.findobj(PatchCollection)
    width, height = frames.axes.get_xlim()[1], frames.axes.get_ylim()[0]
    corners = np.concatenate([path.vertices for path in frames.get_paths()])
    assert corners.min() >= 0
    assert corners[:, 0].max() <= width
    assert corners[:, 1].max() <= height
    assert len(frames.get_paths()) == what.maps[0].kept[2:4].sum() > 0
    # what is kept is bright, from its upper left corner on
    lit = frames.axes.images[-1].get_array()[..., 3] > 0
    assert lit.mean() == pytest.approx(what.maps[0].kept[2:4].mean(), abs=0.02)
