"""Places: what shows the same part of an image or of a frame has the same place."""

import torch

from adafv.ops.grid import places


def test_thumbnail_and_tiles_show_one_image():
    """A patch of the thumbnail is in the middle of those of the tiles that show its part."""
    thumbnail = torch.tensor([(0, row, column) for row in range(2) for column in range(3)])
    tiles = torch.tensor(
        [(1 + column // 3, row, column) for row in range(4) for column in range(6)]
    )
    place = places(torch.cat([thumbnail, tiles]))
    fine = place[6:].view(4, 6, 2)
    middles = fine.view(2, 2, 3, 2, 2).mean((1, 3)).view(6, 2)
    torch.testing.assert_close(place[:6], middles)
    assert torch.equal(place[0], torch.tensor([0.25, 1 / 6], dtype=torch.float64))


def test_frames_lie_one_upon_the_other():
    """Also where frames lack the tokens that repeat the frame before, and the last has none."""
    first = [(1, row, column) for row in range(2) for column in range(2)]
    place = places(torch.tensor([*first, (2, 3, 1)]), frames=3)
    assert torch.equal(place[4], place[3])
