"""Tokens that are no visual tokens and stand between those of one image: tiles' names, line breaks.

How many visual tokens of a tile are kept is known only after the tower has run, and the prompt is
written before. So all between the first and the last visual token of such an image becomes one run
of placeholders, as many as it has kept tokens and structure tokens, and the model is handed the
embeddings of both in their order.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Structure", "between", "with_structure"]

Structure = tuple[tuple[int, int], ...]
"""Structure tokens: for each its position in the image's run, and its id."""


def between(ids: Sequence[int], is_visual: Tensor) -> tuple[int, int, Structure]:
    """Return the bounds of the run of an image, and the structure tokens in it.

    Args:
        ids: (L,) of all that the prompt says of the image.
        is_visual: (L,) which of them are visual tokens.
    """
    visual = is_visual.nonzero()[:, 0].tolist()
    start = visual[0]
    end = visual[-1] + 1
    structure = []
    for i in range(start, end):
        if not is_visual[i]:
            structure.append((i - start, ids[i]))
    return start, end, tuple(structure)


def with_structure(
    features: Tensor,
    chosen: Tensor,
    count: int,
    structure: Structure,
    embed: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return features (K, D) with the embeddings of S structure tokens among them: (K + S, D).

    Args:
        chosen: (K,) which of the image's visual tokens they are, ascending.
        count: of its visual tokens before pruning.
        embed: gives the input embeddings (S, D) of text tokens (S,).
    """
    device = features.device
    structural = torch.tensor([position for position, _ in structure])  # (S,)
    ids = torch.tensor([token for _, token in structure])  # (S,)

    # where the visual tokens stand in the run
    is_visual = torch.ones(count + len(structure), dtype=torch.bool)
    is_visual[structural] = False
    visual = is_visual.nonzero()[:, 0].to(device, non_blocking=True)  # (count,)

    positions = torch.cat([structural.to(device, non_blocking=True), visual[chosen]])  # (S + K,)
    embedded = embed(ids.to(device, non_blocking=True)).to(features)  # (S, D)
    return torch.cat([embedded, features])[positions.argsort()]
