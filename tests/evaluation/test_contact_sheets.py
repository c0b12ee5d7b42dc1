"""Contact sheets as clips: tokens of a frame are its own, whatever stands in the others."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from adafv.core.encode import encode, reask
from adafv.data.videos import draw_video
from adafv.evaluation.contact_sheets import as_videos, on_contact_sheet
from adafv.evaluation.evaluate import Evaluation
from adafv.models.load import load
from adafv.models.prompting import build_batch
from adafv.ops.frames import frame_grid

GRID = (2, 2)


@pytest.fixture(scope="module")
def loaded():
    return load()


@torch.no_grad()
def seen(loaded, images, grids):
    model, processor = loaded
    inputs = build_batch(processor, images, ["is there a cup?"] * len(images), "cpu")
    return inputs, as_videos(encode(model, inputs), grids)


def test_frames_of_a_contact_sheet(loaded):
    """Four frames of 12 × 12 tokens, the thumbnail left out; another third frame changes the tokens
    of the third frame alone. An image beside it stays what it is.
    """
    sample = draw_video(0, split="validation")
    other = sample.image.copy()
    other.paste(Image.new("RGB", (96, 96), "red"), (0, 96))
    images = [sample.image, other, sample.image]
    inputs, encoding = seen(loaded, images, [GRID, GRID, (1, 1)])
    tokens = encoding.tokens
    assert tokens.counts == (576, 576, 720)
    assert tokens.frames == (4, 4, 1)
    plain = encode(loaded[0], inputs).tokens
    assert torch.equal(tokens.coordinates[2], plain.coordinates[2])
    assert torch.equal(tokens.features[2], plain.features[2])

    grid = frame_grid(tokens.coordinates[0], 4)
    assert grid.shape == (4, 144)
    assert (grid >= 0).all()
    changed = (tokens.features[0] - tokens.features[1]).abs().amax(-1) > 1e-5  # (720,)
    assert changed[grid].any(1).tolist() == [False, False, True, False]

    # back on the contact sheet they lie where the tiles have them
    on_sheet = on_contact_sheet(tokens.coordinates[0], GRID)
    tiles = plain.coordinates[0]
    assert torch.equal(on_sheet, tiles[tiles[:, 0] > 0])
    # and of all its tokens the same ones are meant
    patches = encoding.features[0][encoding.patch_indices[0]]
    assert torch.equal(patches, tokens.features[0, :576])

    # asked again they are frames as before
    again = reask(loaded[0], inputs, encoding).tokens
    assert again.frames == tokens.frames
    assert torch.equal(again.features, tokens.features)


def test_tokens_across_the_edge_of_a_frame(loaded):
    """An image of another shape than its frames say is refused, not cut wrongly."""
    with pytest.raises(ValueError, match=r"24 × 24 visual tokens don't divide into 5 × 2 frames"):
        seen(loaded, [draw_video(0, split="validation").image], [(5, 2)])


def test_methods_for_clips_are_measured_on_the_suite(loaded, tmp_path):
    """Exact budgets of the frames' tokens; what a budget rules out is left out with its reason, and
    on a suite of images all three are.
    """
    plan = Evaluation(
        methods=["evs", "vidcom2", "vcast", "oracle"],
        keeps=[0.25, 0.05],
        suites=["clips"],
        limit=3,
        split="validation",
    )
    findings = plan.run(*loaded, tmp_path / "clips", name="embedded")
    records = findings.records
    kept = {(r["method"], r["keep"]): r["kept_tokens"] for r in records if 0 < r["keep"] < 1}
    assert set(kept) == {
        *(("evs", 0.25), ("vidcom2", 0.25), ("vidcom2", 0.05), ("vcast", 0.25), ("vcast", 0.05)),
        *(("oracle", 0.25), ("oracle", 0.05)),
    }
    assert {count for (_, keep), count in kept.items() if keep == 0.25} == {144}
    assert {count for (_, keep), count in kept.items() if keep == 0.05} == {29}
    assert "pass tokens=" in findings.left_out["clips", "evs", 0.05]
    assert all(r["visual_tokens"] == 576 for r in records if r["keep"] == 0.25)
    # the oracle knows where on the contact sheet the boxes lie
    of_oracle = [r["evidence_kept"] for r in records if r["method"] == "oracle" and r["keep"] > 0.2]
    assert set(of_oracle) <= {1.0, None}

    images = replace(plan, suites=["scenes"], methods=["vidcom2"], keeps=[0.25])
    findings = images.run(*loaded, tmp_path / "scenes", name="embedded")
    assert "an image has none" in findings.left_out["scenes", "vidcom2", 0.25]
