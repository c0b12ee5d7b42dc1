"""Tokens that are no visual tokens and stand between those of one image: tiles' names, line breaks.

The times of a video's frames, too.

How many visual tokens of a tile are kept is known only after the tower has run, and the prompt is
written before. So all between the first and the last visual token of such an image becomes one run
of placeholders, as many as it has kept tokens and structure tokens, and the model is handed the
embeddings of both in their order.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Structure", "between", "dense_run", "run_positions", "with_structure"]

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


def dense_run(token: int, count: int, structure: Structure) -> list[int]:
    """Return the ids of the run of an image: `count` visual tokens, and structure among them."""
    ids = [token] * (count + len(structure))
    for position, structural in structure:
        ids[position] = structural
    return ids


def run_positions(chosen: Tensor, count: int, structure: Structure) -> tuple[Tensor, Tensor]:
    """Return where an image's S structure tokens (S,) and chosen visual tokens (K,) stand.

    Args:
        chosen: (K,) which of the image's visual tokens, ascending.
        count: of its visual tokens before pruning.

    Returns:
        Positions in its run.
    """
    structural = torch.tensor([position for position, _ in structure], dtype=torch.long)  # (S,)
    is_visual = torch.ones(count + len(structure), dtype=torch.bool)
    is_visual[structural] = False
    visual = is_visual.nonzero()[:, 0]  # (count,)
    device = chosen.device
    visual = visual.to(device, non_blocking=True)
    return structural.to(device, non_blocking=True), visual[chosen]


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
    structural, visual = run_positions(chosen.to(features.device), count, structure)
    ids = torch.tensor([token for _, token in structure])  # (S,)
    embedded = embed(ids.to(features.device, non_blocking=True)).to(features)  # (S, D)
    # deeper layers read nothing of them
    embedded = F.pad(embedded, (0, features.shape[1] - embedded.shape[1]))
    positions = torch.cat([structural, visual])  # (S + K,)
    return torch.cat([embedded, features])[positions.argsort()]
