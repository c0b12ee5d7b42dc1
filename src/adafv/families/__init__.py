"""Model families: how their towers are reached, and how patches become visual tokens.

A family is data, or a few lines where data doesn't do; nothing else in the package knows one.
"""

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
from adafv.families.llama4 import Llama4
from adafv.families.llava import AnyRes, Llava, VideoLlava
from adafv.families.unproven import IMPOSSIBLE, UNPROVEN
from adafv.utils.checks import checked

__all__ = [
    "FAMILIES",
    "IMPOSSIBLE",
    "UNPROVEN",
    "Family",
    "UnprovenFamilyWarning",
    "check_has_grid",
    "family_of",
    "record",
]

# reasons why nothing can be pruned between the layers of a language model
BOTH_WAYS = "its visual tokens look at each other both ways"
ROTARY = "its rotary embedding is one complex tensor"
STATE = (
    "some of its layers carry a state from token to token and have no attention to rank tokens by"
)
MORE_THAN_HIDDEN = "its layers read more of the full prompt than hidden states"

# by `model_type`; what an entry does not say is as `Family` or its subclass has it
FAMILIES: dict[str, Family] = {
    "aria": Latents(max_crop_gap=0),
    "aya_vision": Crops(max_crop_gap=1, thumbnail=-1),
    "chameleon": Crops(attention_observable=False),
    "cohere2_vision": Crops(max_crop_gap=1, thumbnail=-1),
    "cosmos3_edge": Grid(prunes_video=True),
    "deepseek_ocr2": Latents(closing=1),
    "deepseek_vl": Crops(vision="vision_model"),
    "deepseek_vl_hybrid": Crops(vision="vision_model"),
    "emu3": Codes(),
    "ernie4_5_vl_moe": Grid(
        vision="vision_tower", no_layerwise_reason=MORE_THAN_HIDDEN, prunes_video=True
    ),
    "exaone4_5": Grid(ignores_position_ids=True, prunes_video=True),
    "gemma3": Crops(no_layerwise_reason=BOTH_WAYS),
    "gemma4": Gemma4(no_layerwise_reason=MORE_THAN_HIDDEN, prunes_video=True),
    "glm46v": Grid(prunes_video=True, video_as_images=True),
    "glm4v": Grid(prunes_video=True, video_as_images=True),
    "glm4v_moe": Grid(prunes_video=True, video_as_images=True),
    "glm_ocr": Grid(prunes_video=True, video_as_images=True),
    "got_ocr2": Crops(max_crop_gap=0, thumbnail=-1, attention_observable=False),
    "granite_docling": TwoRoutes(
        vision="vision_model",
        merge="vision_config.scale_factor",
        max_crop_gap=4,
        named_crop=0,
        thumbnail=-1,
        no_layerwise_reason=MORE_THAN_HIDDEN,
    ),
    "hyperclovax_vision_v2": Grid(
        vision="vision_model", ignores_position_ids=True, prunes_video=True
    ),
    "idefics2": Latents(count="perceiver_config.resampler_n_latents", max_crop_gap=1, thumbnail=-1),
    "idefics3": Crops(
        vision="vision_model", merge="scale_factor", max_crop_gap=4, named_crop=-1, thumbnail=-1
    ),
    "internvl": Crops(max_crop_gap=0, thumbnail=-1),
    "janus": Crops(vision="vision_model"),
    "kimi_k25": Grid(vision="vision_tower", together=False),
    "lfm2_vl": Shapes(max_crop_gap=1, thumbnail=-1, no_layerwise_reason=STATE),
    "lfm3_vl": Grid(
        vision="vision_tower",
        attention_observable=False,
        no_layerwise_reason=STATE,
        prunes_video=True,
    ),
    "lighton_ocr": Sized(vision="vision_encoder"),
    "llama4": Llama4(no_layerwise_reason=ROTARY),
    "llava": Llava(),
    "llava_next": AnyRes(),
    "llava_next_video": AnyRes(prunes_video=True),
    "llava_onevision": AnyRes(prunes_video=True),
    "minimax_m3_vl": Grid(vision="vision_tower", ignores_position_ids=True, prunes_video=True),
    "mistral3": Sized(),
    "ovis2": Crops(max_crop_gap=1, thumbnail=0),
    "paddleocr_vl": Grid(together=False),
    "paligemma": Crops(no_layerwise_reason=BOTH_WAYS),
    "qianfan_ocr": Crops(max_crop_gap=0, thumbnail=-1),
    "qwen2_5_vl": Grid(prunes_video=True),
    "qwen2_vl": Grid(prunes_video=True),
    "qwen3_5": Grid(no_layerwise_reason=STATE, prunes_video=True),
    "qwen3_5_moe": Grid(no_layerwise_reason=STATE, prunes_video=True),
    "qwen3_vl": Grid(no_layerwise_reason=MORE_THAN_HIDDEN, prunes_video=True),
    "qwen3_vl_moe": Grid(no_layerwise_reason=MORE_THAN_HIDDEN, prunes_video=True),
    "smolvlm": Crops(
        vision="vision_model", merge="scale_factor", max_crop_gap=4, named_crop=-1, thumbnail=-1
    ),
    "video_llama_3": Grid(
        vision="vision_model", prunes_video=True, video_mask="video_compression_mask"
    ),
    "video_llava": VideoLlava(prunes_video=True),
    "vipllava": Crops(strategy="default"),
}


class UnprovenFamilyWarning(UserWarning):
    """A model of a family that the test matrix does not cover."""


@checked
def family_of(model: PreTrainedModel | PreTrainedConfig) -> Family:
    """Return the family of a model by its `model_type`.

    A configuration will do, for weights that are not loaded yet. A family without tests warns once
    and goes the generic way, see `Generic`.

    Raises:
        ValueError: a model that takes no encoded images, or of a family in `IMPOSSIBLE`.
    """
    # proven
    config = model if isinstance(model, PreTrainedConfig) else model.config
    kind = config.model_type
    family = FAMILIES.get(kind)
    if family is not None:
        return family

    # refused
    if kind in IMPOSSIBLE:
        raise ValueError(
            f"models of the family {kind!r} cannot be pruned: {IMPOSSIBLE[kind]}. {_remedy()}"
        )
    if not _takes_encoded_images(model):
        reads_images = hasattr(config, "vision_config")
        lack = "reads no encoded images" if reads_images else "has no vision tower"
        raise ValueError(f"model type {kind!r} {lack}, hence nothing can be pruned. {_remedy()}")

    # let through
    _warn(kind)
    return Generic()


@checked
def check_has_grid(model: PreTrainedModel) -> None:
    """Raise a `ValueError` if the coordinates of a model's visual tokens are not known."""
    if not family_of(model).has_grid:
        raise ValueError(
            f"where the visual tokens of a {model.config.model_type!r} model lie in an image is "
            "not known, so they cannot be drawn on it or held against boxes: use a model whose "
            "crops share one grid, e.g. LLaVA or Qwen-VL"
        )


def record() -> dict[str, Any]:
    """Return what the test matrix proved when it last ran.

    It is `{"transformers": version, "families": {name: …}}`.
    """
    proven: dict[str, Any] = json.loads(files("adafv.families").joinpath("proven.json").read_text())
    return proven


def _remedy() -> str:
    return f"Load a vision-language model of one of these families: {', '.join(FAMILIES)}"


def _takes_encoded_images(model: PreTrainedModel | PreTrainedConfig) -> bool:
    """Return whether the forward of a model, or of a configuration's model, takes them."""
    forward: Any
    if isinstance(model, PreTrainedConfig):
        # the class that `AutoModelForImageTextToText` would load
        cls: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(model), None)
        if cls is None:
            return False
        forward = cls.forward
    else:
        forward = model.forward
    return "mm_encoder_outputs" in inspect.signature(forward).parameters


@cache
def _warn(kind: str) -> None:
    # cached: once for each family
    warnings.warn(
        f"no test of adafv covers models of the family {kind!r}: their vision tower is not looked "
        "at, methods that need its attention get how much a visual token differs from the others",
        UnprovenFamilyWarning,
        stacklevel=3,
    )
