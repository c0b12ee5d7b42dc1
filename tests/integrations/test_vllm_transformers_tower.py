"""Saliency of a tower of transformers that vLLM runs: the library's."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo.families import ask, show, tiny

from adafv import FasterVLM
from adafv.families import FAMILIES
from adafv.integrations.vllm.meta_model import MetaModel
from adafv.integrations.vllm.transformers_tower import watch_transformers

SHAPES = ((96, 96), (48, 96), (90, 60), (160, 24))
"""Of images; each has another number of tokens, and another number of patches that are padding."""


@cache
def images() -> dict[str, Tensor]:
    """Pixels (I, P, width) and coordinates (I, P, 2) of patches, -1 in padding."""
    return ask("gemma4", ("how many red", [show(*shape, i) for i, shape in enumerate(SHAPES)]))


def run(tower: Any, start: int, end: int) -> Tensor:
    """Encode some images (I, P, D) as vLLM's class does: by parts of the tower, not its forward."""
    coordinates = images()["image_position_ids"][start:end]
    padding = (coordinates == -1).all(-1)
    embedded = tower.patch_embedder(images()["pixel_values"][start:end], coordinates, padding)
    output = tower.encoder(
        inputs_embeds=embedded, attention_mask=~padding, pixel_position_ids=coordinates
    )
    return output.last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3, len(SHAPES)])
def test_the_librarys_saliency(chunk):
    """Image by image, however many the tower sees at once; its output stays bit for bit."""
    model = tiny("gemma4").model
    tower = model.model.vision_tower
    meta = MetaModel(model.config)
    tokens = FasterVLM(keep=0.3).encode(model, images()).tokens
    starts = range(0, len(SHAPES), chunk)
    expected = [run(tower, start, start + chunk) for start in starts]
    with watch_transformers(tower, meta.feature_layer, meta.cls, meta.registers) as seen:
        found = [run(tower, start, start + chunk) for start in starts]
        assert not seen
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    coordinates = images()["image_position_ids"]
    [seen_by_all] = seen
    for i, of_image in enumerate(seen_by_all.split(coordinates.shape[1])):
        padding = (coordinates[i] == -1).all(-1)
        assert padding.any()
        assert not of_image[padding].any()
        assert of_image.sum().item() == pytest.approx(1)
        item = {"pixel_values": images()["pixel_values"][i], "pixel_position_ids": coordinates[i]}
        count = tokens.counts[i]
        layout = meta.layout(count, item)
        pooled = layout.pooled(of_image, layout.patch_indices)
        torch.testing.assert_close(pooled, tokens.saliency[i, :count], rtol=1e-5, atol=1e-8)


def test_layouts_by_the_names_of_vllm():
    """What the largest coordinates say of an image is what all of them do."""
    model = tiny("gemma4").model
    coordinates = images()["image_position_ids"]
    expected = FAMILIES["gemma4"].layouts(model, images(), None, [])
    for pixels, places, layout in zip(images()["pixel_values"], coordinates, expected, strict=True):
        item = {"pixel_values": pixels, "pixel_position_ids": places}
        found = MetaModel(model.config).layout(len(layout.patches), item)
        assert torch.equal(found.patches, layout.patches)
        assert torch.equal(found.coordinates, layout.coordinates)
        assert found.size == layout.size == len(places)


def test_a_tower_that_is_not_seen():
    """An attention that does not go through transformers is no silent zero."""
    tower = tiny("gemma4").model.model.vision_tower
    with (
        pytest.raises(ValueError, match="cannot be observed"),
        watch_transformers(tower, -1, None, 0),
    ):
        pass
