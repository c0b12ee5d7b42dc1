"""SACMAM, the self-adaptive cross-modality attention mixture, under an exact budget."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Mixture", "mix"]

FIRST = torch.finfo(torch.float64).max  # the first token of a list lifts the product from 0


@dataclass(frozen=True)
class Mixture:
    """Which tokens the mixture keeps, and how it split the budget.

    Attributes:
        order: (B, N) token indices, in the order in which a growing budget admits them. The first `tokens[b]` of
            row b are kept.
        text: (B,) k_t, how many of the most relevant tokens are in the split.
        vision: (B,) k_v, how many of the most salient ones. k_t + k_v exceeds the budget by the overlap.
    """

    order: Tensor
    text: Tensor
    vision: Tensor


def mix(
    relevance: Tensor, saliency: Tensor, tokens: Tensor, *, reserve: float = 0.25, mask: Tensor | None = None
) -> Mixture:
    """Split a budget between two score lists so that the geometric mean of the masses they capture is largest.

    With P_t(k) and P_v(k) the sums of the k largest scores of either list, SACMAM (arXiv 2501.09532, section 3.3)
    keeps the union of the top k_t and the top k_v that maximise sqrt(P_t(k_t) · P_v(k_v)) under k_t + k_v = K'.
    Where the lists overlap, K' grows until the union has K tokens.

    Both log P are concave, so the best split of K' + 1 is the best split of K' plus one token: the one whose list
    gains more, P(k + 1) / P(k) - 1 = score / P(k). Hence no search. Sorting the gains of both lists together gives
    the place at which every token arrives, and the K tokens that arrive first are the union for the smallest
    sufficient K'. Ties go to the smaller k_t, then to the lower index.

    Args:
        relevance: (B, N) non-negative text-to-image attention.
        saliency: (B, N) non-negative attention of the vision tower. Either list may have any scale.
        tokens: (B,) integers, K of each row; on any device.
        reserve: share of K that each list is sure of; r = floor(reserve · K), 0 <= reserve <= 0.5.
        mask: (B, N), true where there is a token. None: everywhere.

    Returns:
        A `Mixture`. Nothing is read back from the device.
    """
    count = relevance.shape[1]
    if mask is None:
        mask = torch.ones_like(relevance, dtype=torch.bool)
    tokens = tokens.to(relevance.device, non_blocking=True)[:, None]
    reserved = (tokens.double() * reserve).floor()
    # With no mass in either list every split scores 0 and the smaller k_t wins: saliency goes first.
    by_relevance, gain_t = _gains(relevance, mask, reserved, without_mass=0.0)
    by_saliency, gain_v = _gains(saliency, mask, reserved, without_mass=FIRST)

    merged = torch.cat([gain_v, gain_t], dim=1).sort(dim=1, descending=True, stable=True).indices
    place = _inverse(merged)
    arrival_v, arrival_t = place[:, :count], place[:, count:]
    arrival = torch.minimum(_scatter(by_saliency, arrival_v), _scatter(by_relevance, arrival_t))
    arrival = arrival.masked_fill(~mask, 2 * count)

    admitted, order = arrival.sort(dim=1, stable=True)
    last = admitted.gather(1, (tokens - 1).clamp(0, count - 1))
    return Mixture(order, (arrival_t <= last).sum(1), (arrival_v <= last).sum(1))


def _gains(scores: Tensor, mask: Tensor, reserved: Tensor, without_mass: float) -> tuple[Tensor, Tensor]:
    """Descending order of the scores, and what each next one adds in proportion to those before it."""
    ranked, order = scores.float().masked_fill(~mask, -1).sort(dim=1, descending=True, stable=True)
    ranked = ranked.double()  # so that the order of the gains does not hang on how a device sums
    before = ranked.clamp(min=0).cumsum(1).roll(1, dims=1)
    before[:, 0] = 0
    gain = torch.where(before > 0, ranked / before, FIRST)
    gain = torch.where(ranked[:, :1] > 0, gain, without_mass)
    gain = torch.where(torch.arange(scores.shape[1], device=scores.device) < reserved, torch.inf, gain)
    return order, gain.masked_fill(ranked < 0, -torch.inf)


def _scatter(index: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(values).scatter_(1, index, values)


def _inverse(permutation: Tensor) -> Tensor:
    return _scatter(permutation, torch.arange(permutation.shape[1], device=permutation.device).expand_as(permutation))
