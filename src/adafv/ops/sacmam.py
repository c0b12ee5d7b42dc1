"""SACMAM, the self-adaptive cross-modality attention mixture, under an exact budget."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.ops.precision import exact
from adafv.utils.checks import checked

__all__ = ["Mixture", "mix"]

FIRST = torch.finfo(torch.float64).max  # the first token of a list lifts the product from 0


@checked
@dataclass(frozen=True)
class Mixture:
    """Which tokens the mixture keeps, and how it split the budget.

    Attributes:
        order: (B, N) token indices, in the order in which a growing budget admits them. The first
            `tokens[b]` of row b are kept.
        text: (B,) k_t, how many of the most relevant tokens are in the split.
        vision: (B,) k_v, how many of the most salient ones. k_t + k_v exceeds the budget by the
            overlap.
    """

    order: Tensor
    text: Tensor
    vision: Tensor


@checked
@exact
def mix(
    relevance: Tensor,
    saliency: Tensor,
    tokens: Tensor,
    *,
    reserve: float = 0.25,
    mass: Literal["whole", "beyond"] = "whole",
    mask: Tensor | None = None,
) -> Mixture:
    """Split a budget between two score lists so that the geometric mean of the masses they capture
    is largest.

    With P_t(k) and P_v(k) the sums of the k largest scores of either list, SACMAM (arXiv
    2501.09532, section 3.3) keeps the union of the top k_t and the top k_v that maximise
    sqrt(P_t(k_t) · P_v(k_v)) under k_t + k_v = K'. Where the lists overlap, K' grows until the
    union has K tokens.

    Both log P are concave, so the best split of K' + 1 is the best split of K' plus one token: the
    one whose list gains more, P(k + 1) / P(k) - 1 = score / P(k). Hence no search. Sorting the
    gains of both lists together gives the place at which every token arrives, and the K tokens that
    arrive first are the union for the smallest sufficient K'. Ties go to the smaller k_t, then to
    the lower index.

    Args:
        relevance: (B, N) non-negative text-to-image attention.
        saliency: (B, N) non-negative attention of the vision tower. Either list may have any scale.
        tokens: (B,) integers, K of each row; on any device.
        reserve: share of K that each list is sure of; r = floor(reserve · K), 0 <= reserve <= 0.5.
        mass: where P_t and P_v begin: "whole", with the first token of a list; "beyond", behind the
            r that it is sure of, as in the authors' code.
        mask: (B, N), true where there is a token. None: everywhere.

    Returns:
        A `Mixture`. Nothing is read back from the device.
    """
    count = relevance.shape[1]
    if mask is None:
        mask = torch.ones_like(relevance, dtype=torch.bool)
    tokens = tokens.to(relevance.device, non_blocking=True)[:, None]
    # so that where two gains are equal saliency goes first
    lists = torch.stack([saliency, relevance], dim=1)
    reserved = (tokens.double() * reserve).floor()[:, None]  # (B, 1, 1)
    by_score, gain = _gains(lists, mask[:, None], reserved, beyond=mass == "beyond")

    merged = gain.flatten(1).sort(dim=1, descending=True, stable=True).indices
    place = _inverse(merged).unflatten(1, (2, count))
    arrival = _scatter(by_score, place).amin(1).masked_fill_(~mask, 2 * count)

    admitted, order = arrival.sort(dim=1, stable=True)
    last = admitted.gather(1, (tokens - 1).clamp(0, count - 1))
    vision, text = (place <= last[:, None]).sum(-1).unbind(1)
    return Mixture(order, text, vision)


def _gains(lists: Tensor, mask: Tensor, reserved: Tensor, *, beyond: bool) -> tuple[Tensor, Tensor]:
    """Descending order of the scores, and what each next one adds in proportion to those before it.

    Args:
        lists: (B, 2, N) saliency and relevance. mask: (B, 1, N). reserved: (B, 1, 1) tokens that
            each is sure of.
        beyond: the reserved tokens don't count among those before.
    """
    ranked, order = lists.float().masked_fill(~mask, -1).sort(dim=-1, descending=True, stable=True)
    ranked = ranked.double()  # so that the order of the gains does not hang on how a device sums
    sure = torch.arange(lists.shape[-1], device=lists.device) < reserved  # (B, 1, N)
    counted = ranked.clamp(min=0)
    if beyond:
        counted = counted.masked_fill(sure, 0)
    before = F.pad(counted.cumsum(-1)[..., :-1], (1, 0))
    gain = torch.where(before > 0, ranked / before, FIRST)
    # Without mass in either list every split scores 0 and the smaller k_t wins: saliency goes
    # first, relevance last.
    gain[:, 1].masked_fill_(counted[:, 1].amax(-1, keepdim=True) <= 0, 0.0)
    gain.masked_fill_(sure, torch.inf)
    return order, gain.masked_fill_(ranked < 0, -torch.inf)


def _scatter(index: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(values).scatter_(-1, index, values)


def _inverse(permutation: Tensor) -> Tensor:
    return _scatter(
        permutation,
        torch.arange(permutation.shape[1], device=permutation.device).expand_as(permutation),
    )
