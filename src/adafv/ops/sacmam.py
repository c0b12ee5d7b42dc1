"""SACMAM, the self-adaptive cross-modality attention mixture, under an exact budget.

`mix_naive` reads like section 3.3 of the paper (arXiv 2501.09532): begin there. `mix` keeps the
same tokens, for a whole batch, without a search and without a word read back from the device.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.ops.budget import share_of
from adafv.ops.kernels import LONGEST, wanted
from adafv.ops.precision import exact
from adafv.utils.checks import checked

__all__ = ["Mixture", "mix", "mix_naive"]

FIRST = torch.finfo(torch.float64).max  # the first token of a list lifts the product from 0


@checked
@exact
def mix_naive(
    relevance: Tensor,
    saliency: Tensor,
    tokens: int,
    *,
    reserve: float = 0.25,
    mass: Literal["whole", "beyond"] = "whole",
) -> tuple[Tensor, int, int]:
    """Mix the two score lists of one image as the paper says, trying every split.

    Four visual tokens, of which two are to be kept. Token 0 is the most relevant and the most
    salient one. Relevance is peaked, saliency falls slowly:

        >>> a_t = torch.tensor([0.7, 0.1, 0.1, 0.1])
        >>> a_v = torch.tensor([0.4, 0.1, 0.3, 0.2])

    P_t is 0, .7, .8, .9, 1 and P_v is 0, .4, .7, .9, 1. Of the splits with k_t + k_v = 2 the best
    is 1 + 1, sqrt(.7 · .4) = .53, since the others capture nothing of one list. Both lists begin
    with token 0, so their union has one token, and the total grows. Of the splits with
    k_t + k_v = 3 the best is 1 + 2, sqrt(.7 · .7) = .7, before 2 + 1, sqrt(.8 · .4) = .57. Its
    union is tokens 0 and 2: exactly two.

        >>> kept, k_t, k_v = mix_naive(a_t, a_v, tokens=2)
        >>> kept.tolist(), k_t, k_v
        ([0, 2], 1, 2)

    Args:
        relevance: (N,) non-negative text-to-image attention a_t.
        saliency: (N,) non-negative attention a_v of the vision tower.
        tokens: K, how many tokens are kept, 1 to N.
        reserve: see `mix`.
        mass: see `mix`.

    Returns:
        (K,) indices of the kept tokens, ascending; k_t; k_v.
    """
    count = len(relevance)

    # Sort either list on its own, in descending order.
    by_relevance = relevance.argsort(descending=True, stable=True)  # (N,)
    by_saliency = saliency.argsort(descending=True, stable=True)  # (N,)

    # P_t(k) and P_v(k): the mass that the first k tokens of a list capture, from P(0) = 0.
    p_t = F.pad(relevance[by_relevance].double().cumsum(0), (1, 0))  # (N + 1,)
    p_v = F.pad(saliency[by_saliency].double().cumsum(0), (1, 0))  # (N + 1,)

    # The reserve: each list is sure of its first r tokens, as far as they have any mass.
    reserved = share_of(tokens, reserve)
    sure_t = min(reserved, int((relevance > 0).sum()))
    sure_v = min(reserved, int((saliency > 0).sum()))
    if mass == "beyond":
        p_t = p_t - p_t[sure_t]
        p_v = p_v - p_v[sure_v]

    # The lists may overlap: the total K' grows until their union has K tokens.
    for total in range(tokens, 2 * count + 1):
        # All splits k_t + k_v = K'.
        k_t = torch.arange(max(sure_t, total - count), min(total - sure_v, count) + 1)
        k_v = total - k_t

        # The best captures the largest geometric mean; of equal ones the smaller k_t.
        captured = (p_t[k_t] * p_v[k_v]).sqrt()
        best = int(captured.argmax())

        # Keep the union of the two top lists.
        top_t = by_relevance[: int(k_t[best])]
        top_v = by_saliency[: int(k_v[best])]
        kept = torch.cat([top_t, top_v]).unique()
        if len(kept) == tokens:
            return kept, len(top_t), len(top_v)
    raise ValueError(f"tokens={tokens} is more than there are: pass 1 to {count}")


@checked
@dataclass(frozen=True)
class Mixture:
    """The tokens that the mixture keeps, and the split of the budget.

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
    """Split a budget between two score lists so that they capture most mass together.

    With P_t(k) and P_v(k) the sums of the k largest scores of either list, SACMAM (arXiv
    2501.09532, section 3.3) keeps the union of the top k_t and the top k_v that maximise
    sqrt(P_t(k_t) · P_v(k_v)) under k_t + k_v = K'. Where the lists overlap, K' grows until the
    union has K tokens. `mix_naive` does so step by step.

    Both log P are concave, so the best split of K' + 1 is the best split of K' plus one token: the
    one whose list gains more, P(k + 1) / P(k) - 1 = score / P(k). Hence no search. Sorting the
    gains of both lists together gives the turn at which every token arrives, and the K tokens that
    arrive first are the union for the smallest sufficient K'. Ties go to the smaller k_t, then to
    the lower index.

    With mass="whole" a larger K keeps all that a smaller one keeps. The reserve r changes no gain:
    it clamps the best split of every total to r <= k_t <= K' - r, and from K to K + 1 it grows by
    one at most. If neither list stands at r, the split goes on from where it is; if one does, it
    takes its next token, and the other list keeps all of its own. With mass="beyond" the gains hang
    on r, and a larger K may drop a token.

    Args:
        relevance: (B, N) non-negative text-to-image attention.
        saliency: (B, N) non-negative attention of the vision tower. Either list may have any scale.
        tokens: (B,) integers, K of each row; on any device.
        reserve: share of K that each list is sure of; r = floor(reserve · K), 0 <= reserve <= 0.5.
            Of a list without mass, such as relevance where nothing is asked, nothing is sure.
        mass: where P_t and P_v begin: "whole", with the first token of a list; "beyond", behind the
            r that it is sure of, as in the authors' code.
        mask: (B, N), true where there is a token. None: everywhere.

    Returns:
        A `Mixture`. Nothing is read back from the device.
    """
    count = relevance.shape[1]
    if mask is None:
        mask = torch.ones_like(relevance, dtype=torch.bool)
    if wanted(relevance.device) and count <= LONGEST:
        return _by_kernel(relevance, saliency, tokens, mask, reserve, beyond=mass == "beyond")
    tokens = tokens.to(relevance.device, non_blocking=True)[:, None]  # (B, 1)

    # The reserve: each list is sure of its first r tokens.
    reserved = share_of(tokens, reserve)[:, None]  # (B, 1, 1)

    # Sort either list, and find by how much each next token multiplies the mass before it.
    lists = torch.stack([saliency, relevance], dim=1)  # (B, 2, N), saliency first: it wins ties
    by_score, gain = _gains(lists, mask[:, None], reserved, beyond=mass == "beyond")  # (B, 2, N)

    # Merge the lists by gain: every token of either has its turn.
    merged = gain.flatten(1).sort(dim=1, descending=True, stable=True).indices  # (B, 2 N)
    turn = _inverse(merged).unflatten(1, (2, count))  # (B, 2, N), in the order of the scores

    # A token arrives at the earlier of its two turns.
    arrival = _scatter(by_score, turn).amin(1)  # (B, N), in the order of the tokens
    arrival = arrival.masked_fill(~mask, 2 * count)

    # The K tokens that arrive first are the union.
    admitted, order = arrival.sort(dim=1, stable=True)  # (B, N)

    # k_t and k_v: how many turns either list has had when the K-th token arrives.
    last = admitted.gather(1, (tokens - 1).clamp(0, count - 1))  # (B, 1)
    vision, text = (turn <= last[:, None]).sum(-1).unbind(1)  # (B,)
    return Mixture(order, text, vision)


def _by_kernel(
    relevance: Tensor,
    saliency: Tensor,
    tokens: Tensor,
    mask: Tensor,
    reserve: float,
    *,
    beyond: bool,
) -> Mixture:
    """Mix in one launch."""
    from adafv.ops.kernels import sacmam  # imports Triton

    # where the budgets are, so that they reach the device in one copy
    reserved = share_of(tokens, reserve)  # (B,)
    limits = torch.stack([tokens.long(), reserved])  # (2, B)
    limits = limits.to(relevance.device, non_blocking=True)
    return Mixture(*sacmam.mix(relevance, saliency, limits, mask, beyond=beyond))


def _gains(lists: Tensor, mask: Tensor, reserved: Tensor, *, beyond: bool) -> tuple[Tensor, Tensor]:
    """Sort the scores, and weigh each next one against the sum of those before it.

    Args:
        lists: (B, 2, N) saliency and relevance.
        mask: (B, 1, N), true where there is a token.
        reserved: (B, 1, 1) tokens that each list is sure of.
        beyond: the reserved tokens don't count among those before.

    Returns:
        (B, 2, N) the order of the scores; (B, 2, N) the gains, in that order.
    """
    scores = lists.float().masked_fill(~mask, -torch.inf)
    ranked, order = scores.sort(dim=-1, descending=True, stable=True)  # (B, 2, N)
    ranked = ranked.double()  # so that the order of the gains does not hang on how a device sums

    # P(k), without the reserved tokens where the authors' code leaves them out
    sure = torch.arange(lists.shape[-1], device=lists.device) < reserved  # (B, 1, N)
    sure = sure & ~(ranked <= 0)  # (B, 2, N)
    counted = ranked.clamp(min=0)
    if beyond:
        counted = counted.masked_fill(sure, 0)
    before = F.pad(counted.cumsum(-1)[..., :-1], (1, 0))  # (B, 2, N)
    gain = torch.where(before > 0, ranked / before, FIRST)

    # Without mass in either list every split scores 0 and the smaller k_t wins: saliency goes
    # first, relevance last.
    massless = counted[:, 1].amax(-1, keepdim=True) <= 0  # (B, 1)
    gain[:, 1].masked_fill_(massless, 0.0)

    # The reserve goes before everything, padding behind everything.
    gain.masked_fill_(sure, torch.inf)
    return order, gain.masked_fill_(ranked == -torch.inf, -torch.inf)


def _scatter(index: Tensor, values: Tensor) -> Tensor:
    """Put `values` at `index` along the last dimension, which is a permutation."""
    return torch.empty_like(values).scatter_(-1, index, values)


def _inverse(permutation: Tensor) -> Tensor:
    """Return at which position of each row of (B, L) every index stands."""
    position = torch.arange(permutation.shape[1], device=permutation.device)
    return _scatter(permutation, position.expand_as(permutation))
