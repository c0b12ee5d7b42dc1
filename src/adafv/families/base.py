"""The interface of a model family: how its tower is reached, how patches become visual tokens.

Letters: n placeholders of an image, newlines included, N of them stand for patches, D' width of the
encoder's features, D width of the language model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from adafv.core.prompt import Prompt
from adafv.families.crop_layout import Crop, Layout, join
from adafv.utils.adapters import without_adapters
from adafv.utils.checks import checked

__all__ = [
    "Family",
    "Inputs",
    "Lengths",
    "base_of",
    "hidden_index",
    "layers_of",
    "patch_grid",
    "pixels_of",
]

Inputs = Mapping[str, Any]
"""What a model's processor returned."""
Lengths = Sequence[int]
"""Tokens of each of some pieces."""
BEFORE_PATCHES = ("class_embedding", "cls_token", "distillation_token", "register_tokens")
"""Names of the parameters of tokens that a tower puts before its patches."""
DEPTHS = ("num_hidden_layers", "depth", "num_layers")
"""Names that configurations give to the number of layers."""


@checked
@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything the pruner has to know about a family of models.

    A subclass says how a crop's patches become its visual tokens; the rest is data.

    Attributes:
        vision: path of the vision tower in the base model.
        max_crop_gap: crops of one image are at most so many tokens apart in the prompt; images that
            follow one another more closely share a budget. None: every crop is an image.
        named_crop: which crop of every image has a token of its own before it, so that images that
            follow one another closely are told apart: 0 the first, -1 the last. None: no crop has.
        thumbnail: which of an image's several crops shows all of it: 0 the first, -1 the last.
            None: no crop does.
        cls: index of the CLS token in the tower: 0 or -1. None: as its parameters say, first if
            it has one.
        output_field: the field of the encoder's output that the language model reads.
        attention_observable: the tower's attention can be observed, and its patches become tokens
            of their own. Otherwise 1 − mean cosine of the visual tokens stands in for it.
        no_layerwise_reason: why the language model has to read the full prompt in every layer, so
            that nothing can be pruned between them. Empty: it hasn't.
        ignores_position_ids: the model numbers its tokens by counting them, whatever position ids
            it is given.
        prunes_video: its videos are pruned, too.
        video_vision: path of the tower that sees videos. Empty: it is the one that sees images.
        video_mask: name of the input that says which tokens of videos the language model reads.
            Empty: it reads all.
        video_as_images: in a prompt the frames of a video are placeholders of images.
        merges: `output_field` holds what the language model reads, so that methods may merge it.
        required_inputs: inputs without which the crops' shapes are unknown.
        strategy: "default": the first token that the tower makes of a crop is cut off, "full": no
            token is; for families whose configuration has no vision_feature_select_strategy.
    """

    vision: str = "vision_tower"
    max_crop_gap: int | None = None
    named_crop: int | None = None
    thumbnail: int | None = None
    cls: int | None = None
    output_field: str = "pooler_output"
    attention_observable: bool = True
    no_layerwise_reason: str = ""
    ignores_position_ids: bool = False
    prunes_video: bool = False
    video_vision: str = ""
    video_mask: str = ""
    video_as_images: bool = False
    merges: bool = True
    required_inputs: tuple[str, ...] = ()
    strategy: str = "full"

    @property
    def has_grid(self) -> bool:
        """Return whether rows and columns run over the image, so that coordinates are known."""
        return self.max_crop_gap is None

    @property
    def of_videos(self) -> Self:
        """Return the same family, whose tower is the one that sees videos."""
        return replace(self, vision=self.video_vision) if self.video_vision else self

    def tower(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the vision tower of a model."""
        tower: PreTrainedModel = reduce(getattr, self.vision.split("."), base_of(model))
        return tower

    def cls_position(self, model: PreTrainedModel) -> int | None:
        """Return which token of the tower is CLS: 0, -1 or None."""
        if self.cls is not None:
            return self.cls
        return 0 if self._before_patches(model) else None

    def registers(self, model: PreTrainedModel) -> int:
        """Return how many tokens of the tower stand between CLS and the patches."""
        # the first of them is CLS
        return max(0, self._before_patches(model) - 1)

    def lead(self, model: PreTrainedModel, inputs: Inputs) -> int:
        """Return how many visual tokens of a crop stand before its patches.

        Of CLS and registers all but what is cut off. -1: what is cut off is the first patch, in a
        tower that has nothing before it.
        """
        # a tower that is not looked at, or whose CLS comes last
        if not self.attention_observable or self.cls_position(model) == -1:
            return 0
        # the call decides, else the configuration, else the family
        strategy = inputs.get("vision_feature_select_strategy")
        if not strategy:
            strategy = getattr(model.config, "vision_feature_select_strategy", self.strategy)
        cut_off = 1 if strategy == "default" else 0
        return self._before_patches(model) - cut_off

    def _before_patches(self, model: PreTrainedModel) -> int:
        """Return how many tokens the tower puts before its patches."""
        found = 0
        for name, parameter in self.tower(model).named_parameters():
            *modules, last = name.split(".")
            # a pooling head has a CLS token of its own
            if last in BEFORE_PATCHES and "head" not in modules:
                # (1, count, width), (count, width) or (width,)
                found += parameter.numel() // parameter.shape[-1]
        return found

    def feature_layer(self, model: PreTrainedModel, inputs: Inputs | None = None) -> int:
        """Return the index into `hidden_states` of the deepest layer that features are taken from.

        Args:
            inputs: of the call, which may name another layer than the configuration.

        Raises:
            ValueError: not a valid layer.
        """
        config = model.config
        chosen: Any = (inputs or {}).get("vision_feature_layer")
        # the call decides, else the configuration, else the last layer
        if chosen is None:
            several = getattr(config, "vision_feature_layers", -1)
            chosen = getattr(config, "vision_feature_layer", several)
        if isinstance(chosen, int):
            return chosen
        is_list = isinstance(chosen, Sequence) and len(chosen) > 0
        if not is_list or not all(isinstance(layer, int) for layer in chosen):
            raise ValueError(
                f"vision_feature_layer={chosen!r} is not a valid layer: pass an integer, or a list "
                "of them"
            )
        # features of several layers side by side
        count = len(layers_of(self.tower(model)))
        return max(hidden_index(layer, count) for layer in chosen)

    def pieces(self, output: ModelOutput) -> list[Tensor]:
        """Return the encoder's features in pieces (tokens, D'): of an image, a crop or a prompt."""
        # one tensor for all, one with a dimension of crops, or a list
        features = getattr(output, self.output_field)
        if isinstance(features, Tensor) and features.dim() == 2:
            return [features]
        return list(features)

    def project(self, model: PreTrainedModel, features: Tensor) -> Tensor:
        """Return (N, D) what the language model will see of features (N, D') of the encoder."""
        return features

    def crops(self, model: PreTrainedModel, inputs: Inputs, tokens: Lengths) -> list[Crop]:
        """Return the crops of a batch, in the order of the tower.

        Args:
            tokens: lengths of the pieces in which the encoder returns its features.
        """
        raise NotImplementedError

    def layouts(
        self, model: PreTrainedModel, inputs: Inputs, prompt: Prompt | None, tokens: Lengths
    ) -> list[Layout]:
        """Return for each image, in reading order, what its placeholders stand for.

        Args:
            prompt: in which they stand. None: the inputs are those of one image.
            tokens: lengths of the pieces in which the encoder returns its features.
        """
        crops = self.crops(model, inputs, tokens)
        if self.max_crop_gap is None:
            # every crop is an image
            groups = [[crop] for crop in crops]
        elif prompt is None:
            groups = [crops]
        else:
            # crops that follow one another closely are one
            lengths = [len(crop.patches) for crop in crops]
            groups = prompt.groups(crops, lengths, self.max_crop_gap, self.named_crop)
        return [join(group, self.thumbnail) for group in groups]

    def video_layouts(
        self, model: PreTrainedModel, inputs: Inputs, prompt: Prompt | None, tokens: Lengths
    ) -> list[Layout]:
        """Return for each video what its placeholders stand for: its frames are its crops."""
        raise NotImplementedError


@checked
def base_of(model: PreTrainedModel) -> Any:
    """Return what encodes and reads, without the head of the language model and without adapters.

    Its methods differ from family to family.
    """
    return without_adapters(model).base_model


@checked
def pixels_of(inputs: Inputs) -> Tensor | None:
    """Return the pixels (…, height, width) of images among the inputs, under whichever name."""
    pixels: Tensor | None = inputs.get("pixel_values")
    return inputs.get("pixel_values_images") if pixels is None else pixels


@checked
def patch_grid(model: PreTrainedModel, inputs: Inputs) -> tuple[int, int]:
    """Return the rows and columns of patches of a crop: of its pixels, else of the configuration.

    Raises:
        ValueError: a tower that doesn't say how large its patches are.
    """
    vision = model.config.vision_config
    patch = getattr(vision, "patch_size", None)
    if patch is None:
        raise ValueError(
            f"the vision tower {vision.model_type!r} doesn't say how large its patches are: adafv "
            "cannot tell which part of an image a visual token shows, use a model with another "
            "tower"
        )
    pixels = pixels_of(inputs)
    height, width = _pair(vision.image_size) if pixels is None else pixels.shape[-2:]
    patch_height, patch_width = _pair(patch)
    return height // patch_height, width // patch_width


def _pair(x: Any) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else (x[0], x[1])


@checked
def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """Return the stack of layers of a vision tower or a language model.

    Raises:
        ValueError: it has no stack of layers.
    """
    # how many layers there should be
    count = None
    for name in DEPTHS:
        count = getattr(model.config, name, None)
        if count is not None:
            break
    # the outermost list of as many modules
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(
        f"no stack of {count} layers in {type(model).__name__}: its attention cannot be observed"
    )


@checked
def hidden_index(layer: int, count: int) -> int:
    """Return the index, 0 to `count`, into the hidden states of a tower of `count` layers.

    0 is what the first layer reads.

    Raises:
        ValueError: it has no such layer.
    """
    if not -count - 1 <= layer <= count:
        raise ValueError(
            f"vision_feature_layer={layer} is beyond the tower's {count} layers: pass {-count - 1} "
            f"to {count}"
        )
    # -1 is the last
    return layer % (count + 1)
