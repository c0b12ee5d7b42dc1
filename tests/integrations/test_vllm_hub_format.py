"""Configurations in the hub's own format say what transformers' say."""

from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedConfig
from zoo.families import tiny

from adafv.integrations.vllm.architectures import ARCHITECTURES
from adafv.integrations.vllm.hub_format import ERNIE_TOWER, TOWER, as_transformers
from adafv.integrations.vllm.meta_model import MetaModel

OF_HUB = {name: one for name, one in ARCHITECTURES.items() if one.hub and one.hub.tiles}
ERNIE = ARCHITECTURES["Ernie4_5_VLMoeForConditionalGeneration"]


@pytest.mark.parametrize("name", OF_HUB)
@pytest.mark.parametrize("tiles", [1, 3, 5])
def test_the_layout_is_that_of_transformers(name, tiles):
    """Rows of tiles, the thumbnail last, whatever vLLM calls the pixels."""
    architecture = OF_HUB[name]
    model = tiny(architecture.family).model
    tower = {one: getattr(model.config.vision_config, one) for one in TOWER}
    # numbers on the hub, pairs in transformers
    tower |= {"image_size": 24, "patch_size": 4}
    config = PreTrainedConfig(downsample_ratio=0.5, select_layer=-1)
    # a language model that transformers does not have
    config.text_config = PreTrainedConfig(hidden_size=32)
    config.vision_config = PreTrainedConfig(**tower)

    tokenizer = SimpleNamespace(convert_tokens_to_ids={"<IMG_CONTEXT>": 7}.get)
    found = as_transformers(config, architecture, tokenizer)
    assert found.model_type == architecture.family
    assert found.image_token_id == 7

    pixels = torch.empty(tiles, 3, 24, 24)
    ours = MetaModel(as_transformers(config, architecture))
    theirs = MetaModel(model.config)
    layout = ours.layout(9 * tiles, {"pixel_values_flat": pixels})
    expected = theirs.layout(9 * tiles, {"pixel_values": pixels})
    assert torch.equal(layout.patches, expected.patches)
    assert torch.equal(layout.coordinates, expected.coordinates)
    assert layout.size == expected.size == 36 * tiles
    assert ours.cls == theirs.cls == 0


def test_one_in_transformers_format_stays_as_it_is():
    config = tiny("internvl").model.config
    assert as_transformers(config, ARCHITECTURES["InternVLForConditionalGeneration"]) is config


def ernie(**options: int) -> PreTrainedConfig:
    """The hub's configuration of the tiny ERNIE."""
    tower = tiny(ERNIE.family).model.config.vision_config
    config = PreTrainedConfig(temporal_conv_size=2, **options)
    config.vision_config = PreTrainedConfig(**{one: getattr(tower, one) for one in ERNIE_TOWER})
    return config


def test_the_layout_of_ernie_is_that_of_transformers():
    """Of an image, and of a clip whose frames merge by twos."""
    ours = MetaModel(as_transformers(ernie(), ERNIE))
    theirs = MetaModel(tiny(ERNIE.family).model.config)
    image = {"pixel_values": torch.empty(24, 48), "image_grid_thw": torch.tensor([1, 6, 4])}
    clip = {"pixel_values_videos": torch.empty(96, 48), "video_grid_thw": torch.tensor([4, 6, 4])}
    for count, item, modality in ((6, image, "image"), (12, clip, "video")):
        layout = ours.layout(count, item, modality)
        expected = theirs.layout(count, item, modality)
        assert torch.equal(layout.patches, expected.patches)
        assert torch.equal(layout.coordinates, expected.coordinates)
        assert layout.frames == expected.frames
    assert ours.cls is theirs.cls is None


def test_the_ids_of_ernie():
    """Those that the hub's configuration names, and else transformers' own."""
    tokenizer = SimpleNamespace(convert_tokens_to_ids={"<|IMAGE_PLACEHOLDER|>": 7}.get)
    found = as_transformers(ernie(video_end_token_id=8), ERNIE, tokenizer)
    assert (found.model_type, found.image_token_id, found.video_end_token_id) == (
        ERNIE.family,
        7,
        8,
    )
    assert found.video_start_token_id == type(found)().video_start_token_id
