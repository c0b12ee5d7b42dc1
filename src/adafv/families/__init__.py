"""What a model family does differently: how the tower is reached and how its patches become visual tokens."""

import inspect
import json
import warnings
from functools import cache
from importlib.resources import files
from typing import Any

from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, PreTrainedConfig, PreTrainedModel

from adafv.families.base import Family
from adafv.families.crops import Codes, Crops, Generic, Grid, Latents, Shapes, Sized, TwoRoutes
from adafv.families.gemma4 import Gemma4
from adafv.families.hunyuan import HunYuan
from adafv.families.llama4 import Llama4
from adafv.families.llava import AnyRes, Llava

__all__ = ["FAMILIES", "IMPOSSIBLE", "Family", "UnprovenFamilyWarning", "family_of", "record"]

FAMILIES: dict[str, Family] = {
    "aria": Latents(gap=0),
    "aya_vision": Crops(gap=1, thumbnail=-1),
    "chameleon": Crops(attends=False),
    "cohere2_vision": Crops(gap=1, thumbnail=-1),
    "deepseek_ocr2": Latents(closing=1),
    "cosmos3_edge": Grid(),
    "deepseek_vl": Crops(vision="vision_model"),
    "deepseek_vl_hybrid": Crops(vision="vision_model"),
    "ernie4_5_vl_moe": Grid(vision="vision_tower"),
    "emu3": Codes(),
    "exaone4_5": Grid(),
    "gemma3": Crops(),
    "gemma4": Gemma4(),
    "glm46v": Grid(),
    "glm4v": Grid(),
    "glm4v_moe": Grid(),
    "glm_ocr": Grid(),
    "got_ocr2": Crops(gap=0, thumbnail=-1, attends=False),
    "hunyuan_vl": HunYuan(),
    "granite_docling": TwoRoutes(vision="vision_model", merge="vision_config.scale_factor", gap=4, thumbnail=-1),
    "hyperclovax_vision_v2": Grid(vision="vision_model"),
    "idefics2": Latents(count="perceiver_config.resampler_n_latents", gap=1, thumbnail=-1),
    "idefics3": Crops(vision="vision_model", merge="scale_factor", gap=4, thumbnail=-1),
    "internvl": Crops(gap=0, thumbnail=-1),
    "janus": Crops(vision="vision_model"),
    "kimi_k25": Grid(vision="vision_tower", together=False),
    "lfm2_vl": Shapes(gap=1, thumbnail=-1),
    "lfm3_vl": Grid(vision="vision_tower", attends=False),
    "lighton_ocr": Sized(vision="vision_encoder"),
    "llama4": Llama4(),
    "llava": Llava(),
    "llava_next": AnyRes(),
    "llava_next_video": AnyRes(),
    "llava_onevision": AnyRes(),
    "minimax_m3_vl": Grid(vision="vision_tower"),
    "mistral3": Sized(),
    "ovis2": Crops(gap=1, thumbnail=0),
    "paddleocr_vl": Grid(together=False),
    "paligemma": Crops(),
    "qianfan_ocr": Crops(gap=0, thumbnail=-1),
    "qwen2_5_vl": Grid(),
    "qwen2_vl": Grid(),
    "qwen3_5": Grid(),
    "qwen3_5_moe": Grid(),
    "qwen3_vl": Grid(),
    "qwen3_vl_moe": Grid(),
    "smolvlm": Crops(vision="vision_model", merge="scale_factor", gap=4, thumbnail=-1),
    "video_llama_3": Grid(vision="vision_model"),
    "video_llava": Crops(vision="image_tower"),
    "vipllava": Crops(),
}


IMPOSSIBLE: dict[str, str] = {}


class UnprovenFamilyWarning(UserWarning):
    """A model of a family that the test matrix does not cover."""


def family_of(model: PreTrainedModel | PreTrainedConfig) -> Family:
    """The family of a model, or of a configuration whose weights are not loaded yet, by its `model_type`.

    One that nobody has proven warns once and goes the generic way, see `Generic`.

    Raises:
        ValueError: a model that takes no encoded images, or of a family in `IMPOSSIBLE`.
    """
    config = model if isinstance(model, PreTrainedConfig) else model.config
    kind = config.model_type
    if family := FAMILIES.get(kind):
        return family
    if kind in IMPOSSIBLE:
        raise ValueError(f"models of the family {kind!r} cannot be pruned: {IMPOSSIBLE[kind]}. {_remedy()}")
    if not _takes_encoded_images(model):
        lack = "reads no encoded images" if hasattr(config, "vision_config") else "has no vision tower"
        raise ValueError(f"model type {kind!r} {lack}, hence nothing can be pruned. {_remedy()}")
    _warn(kind)
    return Generic()


def record() -> dict[str, Any]:
    """What the test matrix proved when it last ran: `{"transformers": version, "families": {name: …}}`."""
    return json.loads(files("adafv.families").joinpath("proven.json").read_text())


def _remedy() -> str:
    return f"Load a vision-language model of one of these families: {', '.join(FAMILIES)}"


def _takes_encoded_images(model: PreTrainedModel | PreTrainedConfig) -> bool:
    if isinstance(model, PreTrainedConfig):
        cls: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(model), None)
        return cls is not None and "mm_encoder_outputs" in inspect.signature(cls.forward).parameters
    return "mm_encoder_outputs" in inspect.signature(model.forward).parameters


@cache
def _warn(kind: str) -> None:
    warnings.warn(
        f"no test of adafv covers models of the family {kind!r}: their vision tower is not looked at, methods that "
        "need its attention get that of the visual tokens to each other",
        UnprovenFamilyWarning,
        stacklevel=3,
    )
