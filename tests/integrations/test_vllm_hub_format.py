"""Configurations in the hub's own format say what transformers' say."""

from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedConfig
from zoo.families import tiny

from adafv.integrations.vllm.architectures import ARCHITECTURES
from adafv.integrations.vllm.hub_format import TOWER, as_transformers
from adafv.integrations.vllm.meta_model import MetaModel

OF_HUB = {name: one for name, one in ARCHITECTURES.items() if one.config}


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
