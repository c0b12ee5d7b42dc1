"""The interface of a model family: how its tower is reached, and how patches become visual tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from adafv.core.prompt import Prompt
from adafv.utils.checks import checked

__all__ = [
    "Crop",
    "Family",
    "Layout",
    "base_of",
    "behind",
    "blocks",
    "join",
    "patch_grid",
    "pixels_of",
    "raster",
]

BEFORE_PATCHES = ("class_embedding", "cls_token", "distillation_token", "register_tokens")


@checked
@dataclass(frozen=True)
class Crop:
    """What the tower saw of an image at once, and the visual tokens it became.

    Attributes:
        patches: (height · width, m) int64, which of the crop's patches each visual token is made
            of.
        height, width: of the grid of visual tokens.
        size: patches that the tower has of the crop, its padding included.
    """

    patches: Tensor
    height: int
    width: int
    size: int


@checked
@dataclass(frozen=True)
class Layout:
    """The placeholders of one image.

    Attributes:
        patches: (n, m) int64, which of the image's patches, crop after crop in the tower's order,
            each placeholder stands for; -1 for a token that is no patch (a newline).
        coordinates: (n, 3) int64, crop, row and column of each. Crops are counted in the order of the
            tower, but 0 is always a thumbnail, or all there is. Row and column run over one image
            at one scale: the tiles of a grid share theirs, a thumbnail has its own.
        size: patches that the tower has of the image.
        frames: of a clip.
    """

    patches: Tensor
    coordinates: Tensor
    size: int
    frames: int = 1

    @property
    def patch_indices(self) -> Tensor:
        """(N,) which of the n placeholders stand for patches."""
        return (self.patches[:, 0] >= 0).nonzero()[:, 0]

    @property
    def structural_indices(self) -> Tensor:
        """(n - N,) the others."""
        return (self.patches[:, 0] < 0).nonzero()[:, 0]

    def pooled(self, seen: Tensor, tokens: Tensor) -> Tensor:
        """(N, …) the mean over the patches that each of some tokens (N,) is made of, of what all
        (size, …) showed.
        """
        return seen[self.patches[tokens].to(seen.device, non_blocking=True)].mean(1)


@checked
@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything the pruner has to know about a family of models.

    A subclass says how a crop's patches become its visual tokens; the rest is data.

    Attributes:
        vision: path of the vision tower in the base model.
        max_crop_gap: crops of one image are at most so many tokens apart in the prompt; images that follow
            one another more closely share a budget. None: every crop is an image.
        thumbnail: which of an image's several crops shows all of it: 0 the first, -1 the last.
            None: none does.
        cls: where the tower has its CLS token: 0 or -1. None: wherever its parameters say, first if
            it has one.
        output_field: the field of the encoder's output that the language model reads.
        attention_observable: the tower's attention can be observed, and its patches become tokens of their own.
            Otherwise the distinctness of the visual tokens stands in for it.
        no_layerwise_reason: why the language model has to read the whole prompt in every layer, so that nothing
            can be pruned between them. Empty: it hasn't.
        ignores_position_ids: the model numbers its tokens by counting them, whatever position ids it is given.
        prunes_video: its clips are pruned, too.
        merges: what goes in at the door is what the language model reads, so that methods may merge
            it.
        required_inputs: inputs without which the crops' shapes are unknown.
        strategy: "default": the first token that the tower makes of a crop is cut off, "full": none
            is; for families whose configuration has no vision_feature_select_strategy.
    """

    vision: str = "vision_tower"
    max_crop_gap: int | None = None
    thumbnail: int | None = None
    cls: int | None = None
    output_field: str = "pooler_output"
    attention_observable: bool = True
    no_layerwise_reason: str = ""
    ignores_position_ids: bool = False
    prunes_video: bool = False
    merges: bool = True
    required_inputs: tuple[str, ...] = ()
    strategy: str = "full"

    @property
    def has_grid(self) -> bool:
        """Rows and columns run over the image, so that a token's place in it is known."""
        return self.max_crop_gap is None

    def tower(self, model: PreTrainedModel) -> PreTrainedModel:
        """The vision tower."""
        return reduce(getattr, self.vision.split("."), base_of(model))

    def cls_place(self, model: PreTrainedModel) -> int | None:
        """Which token of the tower is CLS: 0, -1 or None."""
        if self.cls is not None:
            return self.cls
        return 0 if self._before_patches(model) else None

    def registers(self, model: PreTrainedModel) -> int:
        """How many tokens of the tower stand between CLS and the patches."""
        return max(0, self._before_patches(model) - 1)

    def lead(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
        """How many visual tokens of a crop stand before its patches: of CLS and registers all but
        what is cut off.

        -1: what is cut off is the first patch, in a tower that has nothing before it.
        """
        if not self.attention_observable or self.cls_place(model) == -1:
            return 0
        strategy = inputs.get("vision_feature_select_strategy")
        strategy = strategy or getattr(
            model.config, "vision_feature_select_strategy", self.strategy
        )
        return self._before_patches(model) - (strategy == "default")

    def _before_patches(self, model: PreTrainedModel) -> int:
        found = 0
        for name, parameter in self.tower(model).named_parameters():
            *modules, last = name.split(".")
            # a pooling head has a CLS token of its own
            if last in BEFORE_PATCHES and "head" not in modules:
                found += parameter.numel() // parameter.shape[-1]
        return found

    def feature_layer(self, model: PreTrainedModel, inputs: Mapping[str, Any] | None = None) -> int:
        """Index into the tower's `hidden_states` of the deepest layer that the features are taken
        from.

        Args:
            inputs: of the call, which may name another layer than the configuration.

        Raises:
            ValueError: a layer that is none.
        """
        config = model.config
        chosen = (inputs or {}).get("vision_feature_layer")
        if chosen is None:
            chosen = getattr(
                config, "vision_feature_layer", getattr(config, "vision_feature_layers", -1)
            )
        if isinstance(chosen, int):
            return chosen
        if (
            not isinstance(chosen, Sequence)
            or not chosen
            or not all(isinstance(layer, int) for layer in chosen)
        ):
            raise ValueError(
                f"vision_feature_layer={chosen!r} is no layer: pass an integer, or a list of them"
            )
        count = len(layers_of(self.tower(model)))
        return max(hidden_index(layer, count) for layer in chosen)

    def pieces(self, output: Any) -> list[Tensor]:
        """The encoder's features in pieces (n, D'): of an image, of a crop, or of a prompt."""
        features = getattr(output, self.output_field)
        return (
            [features] if isinstance(features, Tensor) and features.dim() == 2 else list(features)
        )

    def project(self, model: PreTrainedModel, features: Tensor) -> Tensor:
        """(n, D) what the language model will see of (n, D') features that go in at its door."""
        return features

    def crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], tokens: Sequence[int]
    ) -> list[Crop]:
        """The crops of a batch, in the order of the tower.

        Args:
            tokens: lengths of the pieces in which the encoder returns its features.
        """
        raise NotImplementedError

    def layouts(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        prompt: Prompt,
        tokens: Sequence[int],
    ) -> list[Layout]:
        """For each image, in reading order, what its placeholders stand for."""
        crops = self.crops(model, inputs, tokens)
        lengths = [len(crop.patches) for crop in crops]
        groups = (
            [[crop] for crop in crops]
            if self.max_crop_gap is None
            else prompt.groups(crops, lengths, self.max_crop_gap)
        )
        return [join(group, self.thumbnail) for group in groups]

    def video_layouts(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        prompt: Prompt,
        tokens: Sequence[int],
    ) -> list[Layout]:
        """As `layouts`, for each clip: its frames are its crops."""
        raise NotImplementedError


@checked
def join(crops: Sequence[Crop], thumbnail: int | None = None, frames: int = 1) -> Layout:
    """The layout of an image of several crops, one below the other, or of a clip of several frames."""
    patches, coordinates, start, down = [], [], 0, 0
    whole = None if thumbnail is None else thumbnail % len(crops)
    for i, crop in enumerate(crops):
        cells = _cells(crop.height, crop.width)
        if i == whole or len(crops) == 1:
            number = 0
        else:
            number = i + (1 if whole is None or i < whole else 0)
            cells, down = cells + torch.tensor([down, 0]), down + crop.height
        patches.append(crop.patches + start)
        coordinates.append(torch.cat([torch.full((len(cells), 1), number), cells], dim=1))
        start += crop.size
    return Layout(torch.cat(patches), torch.cat(coordinates), start, frames)


@checked
def base_of(model: PreTrainedModel) -> Any:
    """What encodes and reads, without the head of the language model and without adapters of PEFT
    around it.
    """
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    return inner.base_model


@checked
def behind(x: Tensor, lead: int) -> Tensor:
    """(…, lead + n, m) x behind `lead` tokens that are no patches, -1 each; without its first one
    where lead is -1.
    """
    return F.pad(x, (0, 0, lead, 0), value=-1)


@checked
def pixels_of(inputs: Mapping[str, Any]) -> Tensor | None:
    """The pixels (…, height, width) of images among the inputs of a model, under whichever name."""
    pixels = inputs.get("pixel_values")
    return inputs.get("pixel_values_images") if pixels is None else pixels


@checked
def patch_grid(model: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of patches of a crop: of its pixels; where only its shape is known, of the
    configuration's.

    Raises:
        ValueError: a tower that doesn't say how large its patches are.
    """
    vision, pixels = model.config.vision_config, pixels_of(inputs)
    if (patch := getattr(vision, "patch_size", None)) is None:
        raise ValueError(
            f"the vision tower {vision.model_type!r} doesn't say how large its patches are: adafv cannot tell which "
            "part of an image a visual token shows, use a model with another tower"
        )
    size = _pair(vision.image_size) if pixels is None else pixels.shape[-2:]
    rows, columns = (n // p for n, p in zip(size, _pair(patch), strict=True))
    return rows, columns


def _pair(x: Any) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else (x[0], x[1])


@checked
def raster(height: int, width: int, merge: int = 1, size: int | None = None) -> Crop:
    """Height · width tokens in raster order, each of merge · merge patches of a tower that reads in
    raster order.
    """
    index = torch.arange(height * width * merge**2).view(height, merge, width, merge)
    return Crop(
        index.transpose(1, 2).reshape(height * width, -1), height, width, size or index.numel()
    )


@checked
def blocks(height: int, width: int, merge: int = 1) -> Crop:
    """As `raster`, of a tower that reads the patches of a token one after another."""
    index = torch.arange(height * width * merge**2).view(height * width, -1)
    return Crop(index, height, width, index.numel())


def _cells(rows: int, columns: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


DEPTHS = ("num_hidden_layers", "depth", "num_layers")


@checked
def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of layers of a vision tower or a language model.

    Raises:
        ValueError: it has none.
    """
    config = model.config
    count = next((n for name in DEPTHS if (n := getattr(config, name, None)) is not None), None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(
        f"no stack of {count} layers in {type(model).__name__}: its attention cannot be observed"
    )


@checked
def hidden_index(layer: int, count: int) -> int:
    """Index, 0 to `count`, into the hidden states of a tower of `count` layers; 0 is what the first
    layer reads.

    Raises:
        ValueError: it has no such layer.
    """
    if not -count - 1 <= layer <= count:
        raise ValueError(
            f"vision_feature_layer={layer} is beyond the tower's {count} layers: pass {-count - 1} to {count}"
        )
    return layer % (count + 1)
