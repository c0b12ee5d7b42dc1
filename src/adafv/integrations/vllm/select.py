"""Which visual tokens of encoded images stay: the library's methods, shown what the model on vLLM
knows.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.integrations.vllm.encoder_cache import Encoded
from adafv.integrations.vllm.options import PruneSpec

__all__ = ["Kept", "select"]


@dataclass(frozen=True)
class Kept:
    """What stays of an image.

    Attributes:
        features: (k, D) for the language model, newlines included where everything stays.
        coordinates: (k, 2) row and column of each; -1 for a newline.
        kept: (K,) which of its patches stay.
        pruned: something went.
    """

    features: Tensor
    coordinates: Tensor
    kept: Tensor
    pruned: bool


def select(
    tickets: Sequence[PruneSpec],
    images: Sequence[Encoded],
    embed: Callable[[Tensor], Tensor],
    layers: int,
) -> list[Kept]:
    """What stays of each image.

    Args:
        embed: gives the input embeddings (M, D) of words (M,).
        layers: of the language model.
    """
    stay: list[Kept] = []
    pairs = zip(tickets, images, strict=True)
    for method, of_method in groupby(pairs, key=lambda pair: pair[0].method):
        group = list(of_method)
        stay += [_whole(p) for _, p in group] if method == "none" else _chosen(group, embed, layers)
    return stay


def _whole(image: Encoded) -> Kept:
    return Kept(
        image.features,
        image.layout.coordinates[:, 1:],
        torch.arange(len(image.saliency)),
        False,
    )


def _chosen(
    group: list[tuple[PruneSpec, Encoded]], embed: Callable[[Tensor], Tensor], layers: int
) -> list[Kept]:
    """What a method keeps; the images' budgets and questions may differ."""
    tickets, images = zip(*group, strict=True)
    device, pruner = images[0].features.device, tickets[0].pruner
    patches = [p.layout.patch_indices for p in images]
    patch_indices = [p.to(device, non_blocking=True) for p in patches]
    words = [torch.tensor(t.words, dtype=torch.long) for t in tickets]
    counts = tuple(map(len, patches))
    tokens = VisualTokens(
        features=pad_sequence(
            [p.features[d] for p, d in zip(images, patch_indices, strict=True)], batch_first=True
        ),
        mask=_padding(counts).to(device, non_blocking=True),
        counts=counts,
        signals={SALIENCY: pad_sequence([p.saliency for p in images], batch_first=True)},
        text=pad_sequence([embed(w.to(device)) for w in words], batch_first=True)
        if pruner.needs_text
        else None,
        text_mask=_padding([len(w) for w in words]).to(device) if pruner.needs_text else None,
        coordinates=tuple(p.layout.coordinates[d] for p, d in zip(images, patches, strict=True)),
        seeds=tuple(zlib.crc32(w.numpy().tobytes()) for w in words),
        layers=layers,
    )
    budgets = [t.pruner.budget(n) for t, n in zip(tickets, counts, strict=True)]
    selection = pruner.select(tokens, budgets)
    stay = []
    for i, (image, kept) in enumerate(zip(images, selection.kept, strict=True)):
        features, coordinates = image.features, image.layout.coordinates[:, 1:]
        if selection.features is not None:
            features = features.index_copy(
                0, patch_indices[i][kept], selection.features[i].to(features)
            )
        if len(kept) < counts[i]:
            chosen = patch_indices[i][kept]
            features, coordinates = (
                features[chosen],
                coordinates.to(device, non_blocking=True)[chosen],
            )
        stay.append(Kept(features, coordinates, kept, len(kept) < counts[i]))
    return stay


def _padding(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
