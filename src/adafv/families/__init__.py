"""What a model family does differently: how the tower is reached and how its patches become visual tokens."""

from transformers import PreTrainedConfig, PreTrainedModel

from adafv.families.base import Family
from adafv.families.llava import Llava, LlavaNext

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: dict[str, Family] = {"llava": Llava(), "llava_next": LlavaNext()}


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
