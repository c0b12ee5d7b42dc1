"""What methods may look at, and the images of a batch ready to be pruned."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from adafv.core.prompt import ImageSpan, Prompt, Question
from adafv.core.signals import SALIENCY, Signal

__all__ = ["Encoding", "Returned", "VisualTokens"]

HEAVY = ("last_hidden_state", "hidden_states", "attentions")


@dataclass(frozen=True)
class VisualTokens:
    """What a method may look at: the droppable tokens of I images, padded to the longest.

    Attributes:
        features: (I, N, D) visual tokens after the projector, in LLM order, newlines left out.
        mask: (I, N), true where there is a token.
        counts: N of each image.
        signals: what was asked for of the vision tower, (I, N) or (I, N, d) each; see
            `adafv.core.signals.Signal`.
        text: (I, M, D) input embeddings of the words each image is asked about. None if nobody
            asked for them.
        text_mask: (I, M), true where there is a word.
        coordinates: for each image a CPU tensor (N, 3): crop, row and column of each token; see
            `Family.grid`.
        seeds: a number for each image's question, the same in every batch and on every device: for
            methods that draw.
        layers: how many layers the LLM has: for methods that prune between them.
    """

    features: Tensor
    mask: Tensor
    counts: tuple[int, ...]
    signals: Mapping[Signal, Tensor]
    text: Tensor | None
    text_mask: Tensor | None
    coordinates: tuple[Tensor, ...]
    seeds: tuple[int, ...]
    layers: int

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.features.device

    @property
    def saliency(self) -> Tensor:
        """(I, N) fp32 attention of the vision tower at the features' layer, each crop its own
        softmax.
        """
        return self.signals[SALIENCY]


@dataclass(frozen=True)
class Returned:
    """What one of a model's encoders returned.

    Attributes:
        modality: "image" or "video".
        count: of how many images (or clips).
        output: as it came.
        output_field: name of the field that the LLM reads.
    """

    modality: str
    count: int
    output: ModelOutput
    output_field: str

    def but(self, features: list[Tensor], deepstack_features: list[list[Tensor]]) -> ModelOutput:
        """The same with other features (k, D) of each image.

        Where the model expects one tensor of equal pieces, the pieces are the largest that no image
        shares.
        """
        output = type(self.output)(
            **{name: x for name, x in self.output.items() if name not in HEAVY}
        )
        output[self.output_field] = features
        if isinstance(whole := self.output[self.output_field], Tensor):
            piece = math.gcd(*map(len, features)) if whole.dim() == 3 else 0
            output[self.output_field] = (
                torch.cat(features).unflatten(0, (-1, piece)) if piece else torch.cat(features)
            )
        if deepstack_features:
            output["deepstack_features"] = deepstack_features
        return output


@dataclass(frozen=True)
class Encoding:
    """The encoded images of a batch, ready to be pruned by any number of methods. A clip counts as
    an image.

    Attributes:
        tokens: what methods see.
        features: one (n, D) tensor per image: all its tokens in LLM order, newlines included.
        patch_indices: one (N,) device tensor per image: which of its n tokens a method chooses from.
        structural_indices: one (n - N,) device tensor per image: which are no patches. They go as
            `Pruner.newlines` says.
        spans: where each image's placeholders are.
        prompt: the prompts.
        consumed: names of the inputs that the encoders have used up.
        deepstack_features: for each deeper layer of the LLM that reads features of its own (DeepStack), those
            of each image.
        returned: what the encoders returned, in the order of the images.
        positions: (3 or more, B, L) position ids of the whole prompts, where the model has M-RoPE.
        numbering: names of the inputs from which the model numbers its tokens.
        question: whose words an image is asked about by, those of its "turn" or of the "chat" from
            there on.
        merges: the features are what the LLM reads, so that a method may change them.
    """

    tokens: VisualTokens
    features: list[Tensor]
    patch_indices: list[Tensor]
    structural_indices: list[Tensor]
    spans: list[ImageSpan]
    prompt: Prompt
    consumed: frozenset[str]
    deepstack_features: list[list[Tensor]]
    returned: list[Returned]
    positions: Tensor | None
    numbering: frozenset[str]
    question: Question
    merges: bool

    def encoded(
        self, features: list[Tensor], deepstack_features: list[list[Tensor]]
    ) -> dict[str, ModelOutput]:
        """Other features (k, D) of each image by modality, for `mm_encoder_outputs`."""
        found, start = {}, 0
        for part in self.returned:
            own = slice(start, start + part.count)
            found[part.modality] = part.but(
                features[own], [plane[own] for plane in deepstack_features]
            )
            start += part.count
        return found
