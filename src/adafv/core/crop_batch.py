"""The crops of images as images of their own: a budget for each, all side by side in one batch."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.core.selection import Selection
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.grid import share_out
from adafv.utils.checks import checked

__all__ = ["CropBatch", "apart", "together"]


@checked
@dataclass(frozen=True)
class CropBatch:
    """The crops of a batch of images.

    Attributes:
        tokens: those of C crops, as if each were an image.
        budget: how many tokens stay of each crop, at least 1; crops without a share are left out.
        images: for each crop the index of its image.
        index: (C, n) where in its image each token of a crop is.
        count: how many images there are.
    """

    tokens: VisualTokens
    budget: list[int]
    images: list[int]
    index: Tensor
    count: int


@checked
def apart(tokens: VisualTokens, budget: list[int]) -> CropBatch:
    """Take images apart into crops, and share out the budget of each in proportion to its tokens."""
    images: list[int] = []
    shares: list[int] = []
    members: list[Tensor] = []
    seeds: list[int] = []
    for i, (coordinates, k) in enumerate(zip(tokens.coordinates, budget, strict=True)):
        crop = coordinates[:, 0]
        of_crops = [(crop == c).nonzero()[:, 0] for c in crop.unique()]
        of_budget = share_out(k, [len(inside) for inside in of_crops])
        for number, (inside, share) in enumerate(zip(of_crops, of_budget, strict=True)):
            if share:
                images.append(i)
                shares.append(share)
                members.append(inside)
                seeds.append(tokens.seeds[i] + number)

    device = tokens.features.device
    counts = tuple(len(inside) for inside in members)
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]  # (C, n)
    mask = mask.to(device, non_blocking=True)
    index = pad_sequence(members, batch_first=True).to(device, non_blocking=True)  # (C, n)
    image = torch.tensor(images).to(device, non_blocking=True)  # (C,)

    def taken(x: Tensor) -> Tensor:
        """(C, n[, d]) of (I, N[, d]), 0 where padded."""
        real = mask if x.dim() == 2 else mask[..., None]
        return x[image[:, None], index].masked_fill_(~real, 0)

    alone = torch.tensor([0, 1, 1])  # a crop is the first of its image
    places = [
        tokens.coordinates[i][inside] * alone for i, inside in zip(images, members, strict=True)
    ]
    return CropBatch(
        tokens=replace(
            tokens,
            features=taken(tokens.features),
            mask=mask,
            counts=counts,
            signals={signal: taken(x) for signal, x in tokens.signals.items()},
            text=None if tokens.text is None else tokens.text[image],
            text_mask=None if tokens.text_mask is None else tokens.text_mask[image],
            coordinates=tuple(places),
            seeds=tuple(seeds),
        ),
        budget=shares,
        images=images,
        index=index,
        count=len(tokens.counts),
    )


@checked
def together(selection: Selection, crops: CropBatch) -> Selection:
    """Put what stays of the crops together to what stays of their images."""
    in_image = [index[kept] for index, kept in zip(crops.index, selection.kept, strict=True)]
    joined = _of_images(in_image, crops)
    orders = [kept.argsort(stable=True) for kept in joined]

    features = None
    if selection.features is not None:
        unsorted = _of_images(selection.features, crops)
        features = [x[order] for x, order in zip(unsorted, orders, strict=True)]

    split = None
    if selection.split is not None:
        image = torch.tensor(crops.images).to(selection.split.device, non_blocking=True)
        split = selection.split.new_zeros(crops.count, 2).index_add_(0, image, selection.split)
    return Selection([x[order] for x, order in zip(joined, orders, strict=True)], features, split)


def _of_images(of_crops: list[Tensor], crops: CropBatch) -> list[Tensor]:
    """For each image what its crops have, one after the other."""
    parts: list[list[Tensor]] = [[] for _ in range(crops.count)]
    for image, of_crop in zip(crops.images, of_crops, strict=True):
        parts[image].append(of_crop)
    return [torch.cat(part) for part in parts]
