"""The interface of a model family."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["Family"]


class Family(ABC):
    """Everything the pruner has to know about a family of models."""

    def tower(self, model: PreTrainedModel) -> PreTrainedModel:
        """The vision tower."""
        base: Any = model.base_model
        return base.vision_tower

    def has_cls(self, model: PreTrainedModel) -> bool:
        """Whether the first token of the tower is CLS."""
        return any(name.endswith("class_embedding") for name, _ in self.tower(model).named_parameters())

    def feature_layer(self, model: PreTrainedModel) -> int:
        """Index into the tower's `hidden_states` of the (last) layer the features are taken from."""
        layer = model.config.vision_feature_layer
        return layer if isinstance(layer, int) else layer[-1]

    @abstractmethod
    def packing(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Tensor]:
        """For each image, which patch of the tower each of its placeholders stands for.

        Returns:
            One int64 CPU tensor per image, in the order in which the LLM reads them: the patch's index among all
            patches of the image's crops, crop after crop, or -1 for a token that is no patch (a newline).
        """

    @abstractmethod
    def grid(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Tensor]:
        """For each image, where every patch of its crops lies: an int64 CPU tensor (patches, 3) of crop, row, column.

        Crops are counted in the order of the tower. Row and column run over one picture at one scale: the tiles of
        a grid share theirs, a thumbnail has its own.
        """
