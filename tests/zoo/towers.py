"""LLaVA in front of other towers than its own, and prompts for pixels of any size."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

from zoo.base import vision
from zoo.llava import parts, placeholders

TOWERS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {"initializer_factor": 4.0},
    "siglip_vision_model": {"vision_use_head": False},
    "dinov2": {"image_size": 36, "mlp_ratio": 2},
    "dinov2_with_registers": {"image_size": 36, "mlp_ratio": 2, "num_register_tokens": 4},
    "deit": {},
    "aimv2_vision_model": {},
    "internvl_vision": {"image_size": [24, 24], "patch_size": [4, 4]},
    "data2vec-vision": {},
    "vit_mae": {"mask_ratio": 0.0},
}
INTERPOLATE = ("dinov2", "dinov2_with_registers", "internvl_vision")
WORDS = (9, 7), (12, 13, 14, 10)


@cache
def llava_with(tower: str) -> PreTrainedModel:
    """LLaVA with a tiny tower of a type: patches of 4 x 4 pixels."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[tower](**vision(**TOWERS[tower]))
    options = parts(placeholders()) | {"vision_config": config}
    return LlavaForConditionalGeneration(LlavaConfig(**options)).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def around(model: PreTrainedModel, pixels: Tensor, **choices: Any) -> dict[str, Any]:
    """Inputs of a prompt with as many placeholders as the model makes tokens of pixels; one crop is
    one image.
    """
    features = model.base_model.get_image_features(
        pixels, **choices, return_dict=True
    ).pooler_output
    image = [model.config.image_token_id] * sum(len(x) for x in features)
    ids = torch.tensor([[*WORDS[0], *image, *WORDS[1]]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
    } | choices
