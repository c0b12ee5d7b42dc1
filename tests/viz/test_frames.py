"""Videos on a page: their frames side by side, and their tokens where they are seen."""

import numpy as np
import pytest
import torch
from PIL import Image
from zoo.families import tiny
from zoo.videos import with_template

from adafv import AdaFV, explain
from adafv.models.videos import Video
from adafv.viz import explanation
from adafv.viz.frames import montage, on_montage

QUESTION = "what color is the anchor ?"
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90))


def plain(*colours, size=(32, 48)) -> Video:
    """A video whose frames have one colour each."""
    frames = np.stack([np.full((*size, 3), colour, np.uint8) for colour in colours])
    return Video(frames, tuple(range(len(colours))), len(colours), 2.0)


def noise() -> Video:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    return Video(pixels, (0, 1, 2, 3), 4, 2.0)


def test_tokens_lie_on_their_frames():
    """Three frames of 2 × 2 tokens, two across; the last one repeats all but one token."""
    cells = torch.cartesian_prod(torch.arange(6), torch.arange(2))  # rows run over the frames
    coordinates = torch.cat([cells[:, :1] // 2 + 1, cells], dim=1)[:9]
    scale, across = on_montage(coordinates, 1.0, 3)
    assert (across, scale.shape) == (2, (4, 4))
    laid_out = scale.map(np.arange(9.0))
    nan = float("nan")
    expected = [[0, 1, 4, 5], [2, 3, 6, 7], [8, nan, nan, nan], [nan, nan, nan, nan]]
    np.testing.assert_array_equal(laid_out, expected)


@pytest.mark.parametrize(("aspect", "across"), [(4.0, 1), (1.0, 3), (0.01, 8)])
def test_a_montage_is_nearly_square(aspect, across):
    """Wide frames lie below each other."""
    coordinates = torch.stack([torch.arange(8) + 1, torch.arange(8), torch.zeros(8).long()], 1)
    assert on_montage(coordinates, aspect, 8)[1] == across


def test_a_last_frame_that_only_repeats_has_its_place():
    """None of its tokens is a candidate; the frames before it stay where they are."""
    coordinates = torch.stack([torch.arange(3) + 1, torch.arange(3), torch.zeros(3).long()], 1)
    scale, across = on_montage(coordinates, 1.0, 4)
    assert (across, scale.shape) == (2, (2, 2))
    assert scale.coordinates.tolist() == [[0, 0], [0, 1], [1, 0]]


def test_frames_are_where_their_tokens_are():
    """Row after row; a model that makes one of two frames is shown the first."""
    processor = with_template("qwen2_5_vl")
    found = montage(plain(*COLOURS), processor, across=2, count=4)
    assert found.size == (96, 64)
    assert [found.getpixel(at) for at in ((5, 5), (90, 5), (5, 60), (90, 60))] == [*COLOURS]
    found = montage(plain(*COLOURS), processor, across=1, count=2)
    assert [found.getpixel(at) for at in ((5, 5), (5, 60))] == [COLOURS[0], COLOURS[2]]


@pytest.mark.parametrize(("name", "seen"), [("llava_onevision", 4), ("qwen2_5_vl", 2)])
def test_a_video_is_explained(tmp_path, name, seen):
    """The page is drawn; every kept token is on it."""
    model, processor = tiny(name).model, with_template(name)
    what = explanation(model, processor, noise(), QUESTION, AdaFV(keep=0.3), max_new_tokens=2)
    assert what.frames == seen
    assert int(what.maps[0].kept.sum()) == what.pruned.kept_tokens
    out = tmp_path / "page.png"
    summary = explain(model, processor, noise(), QUESTION, AdaFV(keep=0.3), out, max_new_tokens=2)
    assert summary["kept_tokens"] == what.pruned.kept_tokens
    assert Image.open(out).width > 1000


def test_frames_that_are_images_are_not_drawn_as_a_video():
    """InternVL's crops share no grid: one sentence, and not the first frame for all."""
    model, processor = tiny("internvl").model, with_template("internvl")
    with pytest.raises(ValueError, match="use a model whose crops share one grid"):
        explanation(model, processor, noise(), QUESTION, AdaFV(keep=0.3), max_new_tokens=2)
