"""What a model family does differently: how the tower is reached and how its patches become visual tokens."""

from transformers import PreTrainedModel

from adafv.families.base import Family
from adafv.families.llava import Llava, LlavaNext

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: dict[str, Family] = {"llava": Llava(), "llava_next": LlavaNext()}


def family_of(model: PreTrainedModel) -> Family:
    """The family of a model, by `config.model_type`.

    Raises:
        ValueError: a model without a vision tower, or of a family that nobody has proven.
    """
    config = model.config
    if family := FAMILIES.get(config.model_type):
        return family
    known = ", ".join(FAMILIES)
    if getattr(config, "vision_config", None) is None:
        raise ValueError(
            f"{type(model).__name__} ({config.model_type}) has no vision tower, hence no visual tokens to prune: "
            f"load a vision-language model of one of these families: {known}"
        )
    raise ValueError(
        f"model family {config.model_type!r} is not supported: use a model of {known}, "
        "or add its family to adafv.families"
    )
