"""The architectures that are pruned on vLLM, and what each does differently, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ARCHITECTURES", "Architecture"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model class of vLLM, and what pruning has to know of it.

    Attributes:
        name: of the pruned class that takes its place.
        module, model: of vLLM's own class; the module is below `vllm.model_executor.models`.
        family: its `model_type` in `adafv.families`.
        about: a sentence for its docstring.
        mrope: kept tokens have the rows and columns of the dense image (M-RoPE).
        marker: the attribute of the processor that names the token which stands for an image in a
            prompt, before vLLM repeats placeholders. Empty: the placeholder itself stands for it.
        structure: tokens that are no visual tokens may stand between those of one image.
        weights: prefixes of weights as transformers 5 writes them, where vLLM reads other ones.
        unpruned_towers: types of vision towers with which images are served whole.
    """

    name: str
    module: str
    model: str
    family: str
    about: str
    mrope: bool = False
    marker: str = ""
    structure: bool = False
    weights: Mapping[str, str] = field(default_factory=dict)
    unpruned_towers: tuple[str, ...] = ()


TOWER_PARTS = ("embeddings", "encoder", "pre_layrnorm", "post_layernorm")
OF_OLDER_TOWERS = {f"vision_tower.{x}.": f"vision_tower.vision_model.{x}." for x in TOWER_PARTS}
"""To the names of a tower's weights in older checkpoints."""

ARCHITECTURES: dict[str, Architecture] = {
    "LlavaForConditionalGeneration": Architecture(
        name="PrunedLlava",
        module="llava",
        model="LlavaForConditionalGeneration",
        family="llava",
        about="LLaVA-1.5.",
        weights=OF_OLDER_TOWERS,
        unpruned_towers=("pixtral",),
    ),
    "LlavaNextForConditionalGeneration": Architecture(
        name="PrunedLlavaNext",
        module="llava_next",
        model="LlavaNextForConditionalGeneration",
        family="llava_next",
        about="LLaVA-NeXT; the newlines of an image that is pruned are dropped.",
        weights=OF_OLDER_TOWERS,
    ),
    "LlavaOnevisionForConditionalGeneration": Architecture(
        name="PrunedLlavaOnevision",
        module="llava_onevision",
        model="LlavaOnevisionForConditionalGeneration",
        family="llava_onevision",
        about="LLaVA-OneVision; SigLIP has no CLS: saliency is the attention a patch receives.",
        weights=OF_OLDER_TOWERS,
    ),
    "Qwen2_5_VLForConditionalGeneration": Architecture(
        name="PrunedQwen2_5VL",
        module="qwen2_5_vl",
        model="Qwen2_5_VLForConditionalGeneration",
        family="qwen2_5_vl",
        about="Qwen2.5-VL.",
        mrope=True,
    ),
}
"""By the architecture in a model's configuration; each is proven against the library."""
