"""The crops of images as images of their own: a budget for each, all side by side in one batch."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.core.selection import Selection
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.budget import split_budget
from adafv.utils.checks import checked

__all__ = ["CropBatch", "join_crops", "split_crops"]


@checked
@dataclass(frozen=True)
class CropBatch:
    """The C crops of a batch of I images.

    Attributes:
        tokens: those of the crops, as if each were an image.
        budget: how many tokens of each crop are kept, at least 1; crops without a share are left
            out.
        images: for each crop the index of its image.
        index: (C, n) the index in its image of each token of a crop.
        count: I, how many images there are.
    """

    tokens: VisualTokens
    budget: list[int]
    images: list[int]
    index: Tensor
    count: int


@checked
def split_crops(tokens: VisualTokens, budget: list[int]) -> CropBatch:
    """Split images into crops, and the budget of each among them in proportion to their tokens."""
    crops: list[_Crop] = []
    for image, k in zip(range(len(tokens.counts)), budget, strict=True):
        crops += _crops_of(tokens, image, k)

    # pad the crops to the longest
    device = tokens.device
    counts = tuple(len(crop.index) for crop in crops)
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]  # (C, n)
    mask = mask.to(device, non_blocking=True)
    index = pad_sequence([crop.index for crop in crops], batch_first=True)  # (C, n)
    index = index.to(device, non_blocking=True)
    images = [crop.image for crop in crops]
    image = torch.tensor(images).to(device, non_blocking=True)  # (C,)

    def of_crop_tokens(x: Tensor) -> Tensor:
        """Return (C, n[, d]) of (I, N[, d]), 0 where padded."""
        real = mask if x.dim() == 2 else mask[..., None]
        return x[image[:, None], index].masked_fill_(~real, 0)

    of_crops = replace(
        tokens,
        features=of_crop_tokens(tokens.features),
        mask=mask,
        counts=counts,
        signals={signal: of_crop_tokens(x) for signal, x in tokens.signals.items()},
        # each crop is asked what its image is asked
        text=None if tokens.text is None else tokens.text[image],  # (C, M, D)
        text_mask=None if tokens.text_mask is None else tokens.text_mask[image],  # (C, M)
        coordinates=tuple(crop.coordinates for crop in crops),
        frames=(1,) * len(crops),
        seeds=tuple(crop.seed for crop in crops),
        sizes=tuple(crop.size for crop in crops),
    )
    shares = [crop.share for crop in crops]
    return CropBatch(of_crops, shares, images, index, count=len(tokens.counts))


@dataclass(frozen=True)
class _Crop:
    """A crop, as an image of its own.

    Attributes:
        image: index of its image.
        share: how many of its tokens are kept, at least 1.
        index: (n,) the index in its image of each of its tokens.
        coordinates: (n, 3) of its tokens, as of an image of one crop.
        size: rows and columns of the frame of a video; None: as large as the tokens reach.
        seed: for methods that draw.
    """

    image: int
    share: int
    index: Tensor
    coordinates: Tensor
    size: tuple[int, int] | None
    seed: int


def _crops_of(tokens: VisualTokens, image: int, budget: int) -> list[_Crop]:
    """Return the crops of an image that have a share of its budget."""
    coordinates = tokens.coordinates[image]  # (N, 3)
    # frames are as large as the first, which lacks nothing
    size = _frame_size(coordinates) if tokens.frames[image] > 1 else None

    # the tokens of each crop, and its share
    number = coordinates[:, 0]  # (N,)
    members = [(number == crop).nonzero()[:, 0] for crop in number.unique()]  # (n,) each
    shares = split_budget(budget, [len(index) for index in members])

    crops = []
    for i, (index, share) in enumerate(zip(members, shares, strict=True)):
        if share == 0:
            continue
        own = coordinates[index]  # (n, 3)
        if size is not None:
            # frames are crops 1 to F, one below the other
            own[:, 1] -= (own[:, 0] - 1) * size[0]
        # the crop of an image of one crop is number 0
        own[:, 0] = 0
        crops.append(_Crop(image, share, index, own, size, tokens.seeds[image] + i))
    return crops


def _frame_size(coordinates: Tensor) -> tuple[int, int]:
    """Return rows and columns of the frames of a video, given its tokens' coordinates (N, 3)."""
    first = coordinates[coordinates[:, 0] == 1, 1:]  # (n, 2)
    rows, columns = (first.amax(0) + 1).tolist()
    return rows, columns


@checked
def join_crops(selection: Selection, crops: CropBatch) -> Selection:
    """Return what is kept of images, given what is kept of their crops."""
    # from indices in a crop to indices in its image
    in_image = [index[kept] for index, kept in zip(crops.index, selection.kept, strict=True)]
    joined = _by_image(in_image, crops)

    # crops of a grid interleave in the order of the image
    orders = [indices.argsort(stable=True) for indices in joined]
    kept = _reordered(joined, orders)

    features = None
    if selection.features is not None:
        features = _reordered(_by_image(selection.features, crops), orders)

    # what text and image chose adds up
    split = None
    if selection.split is not None:
        image = torch.tensor(crops.images).to(selection.split.device, non_blocking=True)  # (C,)
        zeros = selection.split.new_zeros(crops.count, 2)
        split = zeros.index_add_(0, image, selection.split)  # (C, 2) -> (I, 2)
    return Selection(kept, features, split)


def _by_image(of_crops: list[Tensor], crops: CropBatch) -> list[Tensor]:
    """Return for each image what its crops have, one after the other."""
    parts: list[list[Tensor]] = [[] for _ in range(crops.count)]
    for image, of_crop in zip(crops.images, of_crops, strict=True):
        parts[image].append(of_crop)
    return [torch.cat(part) for part in parts]


def _reordered(of_images: list[Tensor], orders: list[Tensor]) -> list[Tensor]:
    return [x[order] for x, order in zip(of_images, orders, strict=True)]
