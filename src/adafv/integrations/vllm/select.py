"""Select visual tokens of encoded images with the library's methods, from what vLLM knows."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import torch
from torch import Tensor

from adafv.core.candidates import candidates
from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.integrations.vllm.encoder_cache import Encoded
from adafv.integrations.vllm.failures import FAILED
from adafv.integrations.vllm.prune_spec import PruneSpec
from adafv.integrations.vllm.structure import run_positions, with_structure

__all__ = ["Kept", "select"]

logger = logging.getLogger(__name__)

MOST_VALUES = 2**27  # of text and cosines of the images that are compared together: half a GiB


@dataclass(frozen=True)
class Kept:
    """The tokens that are kept of an image.

    Attributes:
        features: (K, D) for the language model, newlines included where everything is kept;
            structure tokens between those of a pruned image, too.
        positions: of each in the run of the dense image, ascending.
        kept: (K,) which of its patches are kept.
        pruned: something was dropped.
    """

    features: Tensor
    positions: Tensor
    kept: Tensor
    pruned: bool


def select(
    specs: Sequence[PruneSpec],
    images: Sequence[Encoded],
    embed: Callable[[Tensor], Tensor],
    layers: int,
    width: int | None = None,
    *,
    failed: Callable[[bool], bool] | None = None,
) -> list[Kept]:
    """Return what is kept of each image.

    Args:
        specs: of the images; neighbours with the same method are pruned together.
        images: as the tower has encoded them.
        embed: gives the input embeddings (M, D) of text tokens (M,).
        layers: of the language model.
        width: D of the language model. None: that of the features, which may hold more behind
            what its first layer reads, for deeper ones (DeepStack).
        failed: says whether a method has failed on any rank, from whether it has on this one.
            Where it has, zeros are returned, and the image's hash is noted in `FAILED`. None: who
            calls gets the exception.
    """
    kept: list[Kept] = []
    pairs = zip(specs, images, strict=True)
    for _, of_method in groupby(pairs, key=lambda pair: pair[0].method):
        for part in _bounded(list(of_method), width):
            if failed is None:
                kept += _pruned(part, embed, layers, width)
            else:
                kept += _caught(part, embed, layers, width, failed)
    return kept


def _bounded(
    group: list[tuple[PruneSpec, Encoded]], width: int | None
) -> Iterator[list[tuple[PruneSpec, Encoded]]]:
    """Divide images that a method compares with words into parts of bounded memory."""
    part: list[tuple[PruneSpec, Encoded]] = []
    words = 0
    patches = 0
    for spec, image in group:
        words = max(words, len(spec.text_ids))
        patches = max(patches, len(image.saliency))
        # text and features are padded to one length, and compared in float32, more than once
        values = words * ((width or image.features.shape[1]) + 4 * patches)
        if part and spec.pruner.needs_text and (len(part) + 1) * values > MOST_VALUES:
            yield part
            part = []
            words = len(spec.text_ids)
            patches = len(image.saliency)
        part.append((spec, image))
    yield part


def _caught(
    group: list[tuple[PruneSpec, Encoded]],
    embed: Callable[[Tensor], Tensor],
    layers: int,
    width: int | None,
    failed: Callable[[bool], bool],
) -> list[Kept]:
    """Return what one method keeps, and zeros for the images with which it fails."""
    try:
        return _pruned(group, embed, layers, width, failed)
    # the next time there may be memory
    except torch.OutOfMemoryError:
        raise
    # whatever a method raises
    except Exception as error:
        # an image's fault is not its neighbours'
        if len(group) > 1:
            alone = [_caught([pair], embed, layers, width, failed) for pair in group]
            return list(chain.from_iterable(alone))
        [(spec, image)] = group
        logger.exception("%s failed, and with it a request", spec.method, exc_info=error)
        FAILED.add(spec.hash)
        patches = len(image.layout.patch_indices)
        count = spec.pruner.budget(patches)
        pruned = count < patches
        # newlines and structure tokens are read, too: where all patches are kept, as they stood
        count = count + len(spec.structure) if pruned else len(image.features)
        zeros = image.features.new_zeros(count, image.features.shape[1])  # (K, D)
        return [Kept(zeros, torch.zeros(count, dtype=torch.long), torch.arange(count), pruned)]


def _pruned(
    group: list[tuple[PruneSpec, Encoded]],
    embed: Callable[[Tensor], Tensor],
    layers: int,
    width: int | None,
    failed: Callable[[bool], bool] = bool,
) -> list[Kept]:
    """Return what one method keeps; the images' budgets and questions may differ."""
    specs = [spec for spec, _ in group]
    images = [image for _, image in group]
    pruner = specs[0].pruner
    device = images[0].features.device
    # what a method chooses from: not what a video repeats
    choices = [candidates(image.layout, image.features[:, :width]) for image in images]
    tokens = _visual_tokens(specs, images, choices, embed, layers, width)

    # split the budget, score, select
    budgets = []
    for spec, image, count in zip(specs, images, tokens.counts, strict=True):
        # the prompt was written before anyone knew what is repeated
        budgets.append(min(spec.pruner.budget(len(image.saliency)), count))
    selection = _selected(pruner, tokens, budgets, failed)

    # collect the kept tokens of each image
    result = []
    for i, (spec, image) in enumerate(group):
        chosen = choices[i].to(device, non_blocking=True)[selection.kept[i]]  # (K,) of n
        features = image.features  # (n, D)
        if selection.features is not None:
            features = _merged(features, chosen, selection.features[i])
        result.append(_kept(spec, image, features, chosen, embed))
    return result


def _selected(
    pruner: Pruner, tokens: VisualTokens, budgets: list[int], failed: Callable[[bool], bool]
) -> Selection:
    """Return what a method selects, or raise what it raises: on all ranks, or on none.

    What follows is done by ranks together.
    """
    try:
        selection = pruner.select(tokens, budgets)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        failed(True)
        raise
    if failed(False):
        raise RuntimeError(f"{pruner.name} failed on another rank")
    return selection


def _merged(features: Tensor, chosen: Tensor, merged: Tensor) -> Tensor:
    """Return features (n, D) with those that a method has merged in place of the chosen ones.

    What deeper layers read of a token stays its own.
    """
    merged = merged.to(features)  # (K, D)
    deepstack = features[chosen, merged.shape[1] :]
    return features.index_copy(0, chosen, torch.cat([merged, deepstack], dim=1))


def _kept(
    spec: PruneSpec,
    image: Encoded,
    features: Tensor,
    chosen: Tensor,
    embed: Callable[[Tensor], Tensor],
) -> Kept:
    """Return what is kept of one image.

    Args:
        features: (n, D) of all its tokens.
        chosen: (K,) of n that a method has chosen.
    """
    count = len(features)
    chosen = _filled(chosen, image, spec.pruner.budget(len(image.saliency)))
    patches = image.layout.patch_indices.to(chosen.device, non_blocking=True)  # (N,) of n
    kept = torch.searchsorted(patches, chosen)  # (K,) of N
    if len(kept) == len(patches):
        return Kept(features, torch.arange(count, device=chosen.device), kept, pruned=False)

    # without newlines, with what stands between the visual tokens
    structural, positions = run_positions(chosen, count, spec.structure)
    features = features[chosen]  # (K, D)
    if spec.structure:
        features = with_structure(features, chosen, count, spec.structure, embed)
        positions = torch.cat([structural, positions]).sort().values  # (K + S,)
    return Kept(features, positions, kept, pruned=True)


def _filled(chosen: Tensor, image: Encoded, budget: int) -> Tensor:
    """Return as many tokens as the prompt has placeholders for: (budget,) of n, ascending.

    Args:
        chosen: (K,) of n that a method has chosen. Fewer than the budget where a video repeats
            itself so much that it has no more to show: then the first ones that it repeats are
            kept, too.
    """
    lacking = budget - len(chosen)
    if not lacking:
        return chosen
    patches = image.layout.patch_indices.to(chosen.device, non_blocking=True)  # (N,)
    others = patches[~torch.isin(patches, chosen)]
    return torch.cat([chosen, others[:lacking]]).sort().values


def _visual_tokens(
    specs: Sequence[PruneSpec],
    images: Sequence[Encoded],
    choices: Sequence[Tensor],
    embed: Callable[[Tensor], Tensor],
    layers: int,
    width: int | None,
) -> VisualTokens:
    """Return what a method looks at: patches without newlines, padded to one length.

    Args:
        choices: for each image which of its n tokens (N,) a method chooses from.
    """
    device = images[0].features.device
    features = []
    saliency = []
    coordinates = []
    for image, choice in zip(images, choices, strict=True):
        visual = image.features[choice.to(device, non_blocking=True)]  # (N, D) or wider
        features.append(visual[:, :width])  # (N, D)
        # saliency is that of all patches
        of_patches = torch.searchsorted(image.layout.patch_indices, choice)  # (N,)
        saliency.append(image.saliency[of_patches.to(device, non_blocking=True)])  # (N,)
        coordinates.append(image.layout.coordinates[choice])  # (N, 3)

    # the question's text tokens, embedded for methods that look at them
    questions = [torch.tensor(spec.text_ids, dtype=torch.long) for spec in specs]  # (M,) each
    return VisualTokens.of(
        features=features,
        signals={SALIENCY: saliency},
        coordinates=coordinates,
        frames=[image.layout.frames for image in images],
        layers=layers,
    ).asked(questions, embed if specs[0].pruner.needs_text else None)
