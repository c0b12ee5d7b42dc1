"""What a model family does differently: how the tower is reached and how its patches become visual tokens."""

from transformers import PreTrainedConfig, PreTrainedModel

from adafv.families.base import Family
from adafv.families.crops import Crops, Grid, Shapes, Sized
from adafv.families.llama4 import Llama4
from adafv.families.llava import AnyRes, Llava

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: dict[str, Family] = {
    "aya_vision": Crops(gap=1, thumbnail=-1),
    "cohere2_vision": Crops(gap=1, thumbnail=-1),
    "deepseek_vl": Crops(vision="vision_model"),
    "deepseek_vl_hybrid": Crops(vision="vision_model"),
    "exaone4_5": Grid(windows=True),
    "gemma3": Crops(),
    "glm46v": Grid(),
    "glm4v": Grid(),
    "glm4v_moe": Grid(),
    "glm_ocr": Grid(),
    "got_ocr2": Crops(attends=False),
    "hyperclovax_vision_v2": Grid(vision="vision_model", windows=True),
    "idefics2": Crops(vision="vision_model", attends=False),
    "idefics3": Crops(vision="vision_model", merge="scale_factor", gap=4, thumbnail=-1),
    "internvl": Crops(gap=0, thumbnail=-1),
    "janus": Crops(vision="vision_model"),
    "kimi_k25": Grid(vision="vision_tower", merge="vision_config.merge_kernel_size", together=False),
    "lfm2_vl": Shapes(gap=1, thumbnail=-1),
    "lighton_ocr": Sized(vision="vision_encoder"),
    "llama4": Llama4(),
    "llava": Llava(),
    "llava_next": AnyRes(),
    "llava_next_video": AnyRes(),
    "llava_onevision": AnyRes(),
    "mistral3": Sized(),
    "ovis2": Crops(gap=1, thumbnail=0),
    "paddleocr_vl": Grid(together=False),
    "paligemma": Crops(),
    "qianfan_ocr": Crops(gap=0, thumbnail=-1),
    "qwen2_5_vl": Grid(windows=True),
    "qwen2_vl": Grid(),
    "qwen3_5": Grid(),
    "qwen3_5_moe": Grid(),
    "qwen3_vl": Grid(),
    "qwen3_vl_moe": Grid(),
    "smolvlm": Crops(vision="vision_model", merge="scale_factor", gap=4, thumbnail=-1),
    "video_llava": Crops(vision="image_tower"),
    "vipllava": Crops(),
}


def family_of(model: PreTrainedModel | PreTrainedConfig) -> Family:
    """The family of a model, or of a configuration whose weights are not loaded yet, by its `model_type`.

    Raises:
        ValueError: a model without a vision tower, or of a family that nobody has proven.
    """
    config = model if isinstance(model, PreTrainedConfig) else model.config
    if family := FAMILIES.get(config.model_type):
        return family
    known = ", ".join(FAMILIES)
    if getattr(config, "vision_config", None) is None:
        raise ValueError(
            f"{type(model).__name__} (model type {config.model_type!r}) has no vision tower, hence nothing to prune: "
            f"load a vision-language model of one of these families: {known}"
        )
    raise ValueError(
        f"model family {config.model_type!r} is not supported: use a model of {known}, "
        "or add its family to adafv.families"
    )
