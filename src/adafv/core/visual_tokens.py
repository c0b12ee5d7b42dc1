"""Encoded images: what methods may look at, and all that is needed to prune a batch."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import ModelOutput

from adafv.core.prompt import ImageSpan, Prompt, Question
from adafv.core.pruned_inputs import PrunedOutputs
from adafv.core.signals import SALIENCY, Signal

__all__ = ["Encoding", "Returned", "VisualTokens"]

NUMBERS = count()
"""Those of encodings, one after the other."""
HEAVY = ("last_hidden_state", "hidden_states", "attentions")
"""Fields of an encoder's output that nobody reads again, and that would be kept in memory."""


@dataclass(frozen=True)
class VisualTokens:
    """Everything that a method may look at: the patches' tokens of I images, padded to the longest.

    Attributes:
        features: (I, N, D) visual tokens after the projector, in LLM order, newlines left out.
        mask: (I, N), true where there is a token.
        counts: N of each image.
        signals: what was asked for of the vision tower, (I, N) or (I, N, d) each; see
            `adafv.core.signals.Signal`.
        text: (I, M, D) input embeddings of the text tokens each image is asked about. None if
            nobody asked for them.
        text_mask: (I, M), true where there is a text token.
        coordinates: for each image a CPU tensor (N, 3): crop, row and column of each token; see
            `adafv.families.crop_layout.Layout`. The crops of a video are its frames, 1 to F, one
            below the other.
        frames: F of each video, 1 of an image.
        seeds: a number for each image's question, the same in every batch and on every device: for
            methods that draw.
        layers: how many layers the LLM has: for methods that prune between them.
        sizes: for each image rows and columns of the frame of a video that it is, some of whose
            tokens may be lacking; None: it is as large as its tokens reach. Empty: all are.
    """

    features: Tensor
    mask: Tensor
    counts: tuple[int, ...]
    signals: Mapping[Signal, Tensor]
    text: Tensor | None
    text_mask: Tensor | None
    coordinates: tuple[Tensor, ...]
    frames: tuple[int, ...]
    seeds: tuple[int, ...]
    layers: int
    sizes: tuple[tuple[int, int] | None, ...] = ()

    @classmethod
    def of(
        cls,
        features: Sequence[Tensor],
        signals: Mapping[Signal, Sequence[Tensor]],
        coordinates: Sequence[Tensor],
        frames: Sequence[int],
        layers: int,
    ) -> "VisualTokens":
        """Lay out images of different sizes, padded to the longest; nothing is asked of them yet.

        Args:
            features: (N, D) of each image.
            signals: (N,) or (N, d) of each image, by signal.
            coordinates, frames, layers: see the attributes.
        """
        counts = tuple(map(len, features))
        padded: dict[Signal, Tensor] = {}
        for signal, of_images in signals.items():
            padded[signal] = pad_sequence(list(of_images), batch_first=True)  # (I, N[, d])
        return cls(
            features=pad_sequence(list(features), batch_first=True),  # (I, N, D)
            mask=_padding(counts).to(features[0].device, non_blocking=True),  # (I, N)
            counts=counts,
            signals=padded,
            text=None,
            text_mask=None,
            coordinates=tuple(coordinates),
            frames=tuple(frames),
            seeds=(0,) * len(counts),
            layers=layers,
        )

    def asked(
        self, questions: Sequence[Tensor], embed: Callable[[Tensor], Tensor] | None
    ) -> "VisualTokens":
        """Return the same tokens with questions about them.

        Args:
            questions: for each image the ids (M,) of the text tokens that it is asked about, on the
                host.
            embed: gives the input embeddings (L, D) of ids (L,). None: nobody looks at them.
        """
        seeds = tuple(zlib.crc32(ids.numpy().tobytes()) for ids in questions)
        if embed is None:
            return replace(self, text=None, text_mask=None, seeds=seeds)
        ids = pad_sequence(list(questions), batch_first=True)  # (I, M)
        ids = ids.to(self.device, non_blocking=True)
        mask = _padding([len(one) for one in questions]).to(self.device, non_blocking=True)
        # the embeddings may lie on another device than the tower
        text = embed(ids.flatten()).to(self.device).unflatten(0, ids.shape)  # (I, M, D)
        return replace(self, text=text, text_mask=mask, seeds=seeds)

    @property
    def device(self) -> torch.device:
        """Return the device that all but the coordinates are on."""
        return self.features.device

    @property
    def saliency(self) -> Tensor:
        """Return the tower's attention (I, N) at the features' layer, in fp32.

        Each crop is a softmax of its own; where no attention can be observed, the image is one.
        """
        return self.signals[SALIENCY]


@dataclass(frozen=True)
class Returned:
    """The output of one of a model's encoders.

    Attributes:
        modality: "image" or "video".
        count: of how many images (or videos).
        output: as it came.
        output_field: name of the field that the LLM reads.
    """

    modality: str
    count: int
    output: ModelOutput
    output_field: str

    def but(self, features: list[Tensor], deepstack_features: list[list[Tensor]]) -> ModelOutput:
        """Return the same output with other features (k, D) of each image."""
        fields: dict[str, Any] = {}
        for name, value in self.output.items():
            if name not in HEAVY:
                fields[name] = value
        output = type(self.output)(**fields)

        full = self.output[self.output_field]
        if isinstance(full, Tensor):
            output[self.output_field] = _one_tensor(features, in_pieces=full.dim() == 3)
        else:
            output[self.output_field] = features
        if deepstack_features:
            output["deepstack_features"] = deepstack_features
        return output


def _one_tensor(features: list[Tensor], in_pieces: bool) -> Tensor:
    """Return the features (k, D) of several images in one tensor.

    Args:
        in_pieces: the model expects equal pieces: the largest that no two images share.
    """
    joined = torch.cat(features)  # (sum of k, D)
    piece = math.gcd(*map(len, features)) if in_pieces else 0
    if not piece:
        return joined
    return joined.view(-1, piece, joined.shape[-1])  # (pieces, piece, D)


@dataclass(frozen=True)
class Encoding:
    """The encoded images of a batch, ready to be pruned by any number of methods.

    A video counts as an image.

    Attributes:
        tokens: what methods see.
        features: one (n, D) tensor per image: all its tokens in LLM order, newlines included.
        patch_indices: one (N,) device tensor per image: which of its n tokens a method chooses
            from.
        structural_indices: one (n - N,) device tensor per image: which are no patches. They are
            kept or dropped as `Pruner.newlines` says.
        spans: the placeholders of each image in the prompts.
        prompt: the prompts.
        consumed: names of the inputs that the encoders have used up.
        deepstack_features: for each deeper layer of the LLM that reads features of its own
            (DeepStack), those of each image.
        returned: what the encoders returned, in the order of the images.
        positions: (3 or more, B, L) position ids of the full prompts, where the model has M-RoPE.
        numbering: names of the inputs from which the model numbers its tokens.
        grids: those of them that have a row for each image, on the host.
        question: whose text an image is asked about by: that of its "turn", or of the "chat" from
            there on.
        asked: for each image the positions (M,) of these text tokens in its prompt, on the host.
            None: a query stands for them.
        merges: the features are what the LLM reads, so that a method may change them.
        downsampled: the tower has seen smaller images, see `adafv.core.downsample`.
        number: by which prompts that are rebuilt of this encoding are known.
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
    downsampled: bool = False
    asked: list[Tensor] | None = None
    grids: Mapping[str, Tensor] = field(default_factory=dict)
    number: int = field(default_factory=NUMBERS.__next__)

    def repeats(self, image: int) -> int:
        """Return how many tokens of a video repeat one before, and are never chosen from."""
        chosen_from = len(self.patch_indices[image]) + len(self.structural_indices[image])
        return len(self.features[image]) - chosen_from

    def encoded(
        self, features: list[Tensor], deepstack_features: list[list[Tensor]]
    ) -> PrunedOutputs:
        """Return other features (k, D) of each image by modality, for `mm_encoder_outputs`."""
        found: dict[str, ModelOutput] = {}
        start = 0
        for part in self.returned:
            # the images of one encoder follow one another
            own = slice(start, start + part.count)
            levels = [level[own] for level in deepstack_features]
            found[part.modality] = part.but(features[own], levels)
            start += part.count
        return PrunedOutputs(found, self.number)


def _padding(lengths: Sequence[int]) -> Tensor:
    """Return (I, longest) true up to each length."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
