"""PruneSID: groups by principal components, and in each group no token twice."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.signals import HIDDEN, SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.cosine import cosines
from adafv.ops.precision import rounded
from adafv.utils.checks import checked

__all__ = ["PruneSID"]

TOKENS_PER_GROUP = 4  # in the mean
STRICTNESS = 18  # a threshold of K / 32 times the mean cosine at the 576 tokens of a crop of LLaVA
LARGEST = 5  # tokens that a group may keep, for every 64 of the budget
BITS = 40  # behind the point of a loading
NOTHING = 1e-9  # the share of the largest variance below which a component is rounding


@checked
@dataclass(kw_only=True)
class PruneSID(Pruner):
    """Keeps of each group of tokens the salient ones that resemble no better one of the group.

    Zhengyao Fang et al., "Prune Redundancy, Preserve Essence: Vision Token Compression in VLMs via
    Synergistic Importance-Diversity", ICLR 2026, arXiv 2603.09480. Principal semantic components
    analysis: the sigmoids of the tower's features, channel by channel, have floor(K / 4) principal
    components over the tokens; a token's group is the component in which its loading is largest.
    Intra-group suppression: from the most salient on, each token suppresses those of its group
    whose cosine exceeds 18 · K / N times the mean cosine of all pairs. A group keeps one token, and
    of the rest of the budget a share in proportion to how many of its tokens survive, up to
    5 · ceil(K / 64) or as many as survive; suppressed tokens follow where that is too few.

    It goes through all N tokens, one after the other, and its decomposition is the one thing here
    that waits for a GPU.
    Departure: the components are exact. The authors' are those of `torch.pca_lowrank`, which draws,
    so that their groups differ from call to call.
    Departure: shares of the budget are rounded exactly, and groups with as many survivors have
    their turn in the order of the components; the authors round floats, and their sort is unstable.
    Departure: one rule for all towers, that of the authors' code for LLaVA, whose K / 32 for the
    576 tokens of a crop is 18 · K / N. Theirs for Qwen2-VL reads tokens after the merger, with that
    factor at least 1.
    Departure: CLS is not kept: the language model of LLaVA never reads it. One more patch is kept
    instead.
    Departure: the budget is K; the paper's information-aware ratio, by which a simple image keeps
    fewer, is left out.
    Departure: one budget for all crops, where the authors have one for each (`crops="each"`).
    """

    name = "prunesid"
    paper = "ICLR 2026, arXiv 2603.09480"
    stepwise = True
    cubic = True
    signals = frozenset({SALIENCY, HIDDEN})

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep of each group its quota, survivors before suppressed tokens."""
        kept = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            hidden = tokens.signals[HIDDEN][i, :count]  # (N, d)
            by_saliency = tokens.saliency[i, :count].argsort(descending=True, stable=True)  # (N,)

            # principal semantic components analysis: the component of the largest loading
            components = max(1, k // TOKENS_PER_GROUP)
            loadings = _loadings(hidden, components)  # (N, C)
            group = loadings.abs().argmax(1)[by_saliency]  # (N,) by falling saliency, from here on

            # intra-group suppression of what resembles a more salient survivor
            cosine = cosines(hidden, hidden)  # (N, N)
            pairs = count * (count - 1) / 2
            mean = cosine.triu(1).sum() / max(1, pairs)
            alike = cosine[by_saliency][:, by_saliency] > STRICTNESS * k / count * mean
            survives = _survivors(alike & (group[:, None] == group))  # (N,)

            # each group keeps its quota, survivors before suppressed tokens
            of_group = group == torch.arange(components, device=group.device)[:, None]  # (C, N)
            quota = _quotas(of_group.sum(1), (of_group & survives).sum(1), k)  # (C,)
            turn = torch.where(survives, 0, 1).argsort(stable=True)  # (N,)
            place = of_group[:, turn].cumsum(1)  # (C, N) from 1, in the order of turns
            chosen = (of_group[:, turn] & (place <= quota[:, None])).any(0)  # (N,)
            first = chosen.sort(descending=True, stable=True).indices[:k]  # (K,)
            kept.append(by_saliency[turn[first]].sort().values)
        return Selection(kept)


def _loadings(hidden: Tensor, components: int) -> Tensor:
    """Return the loadings (N, C) of tokens (N, d) on the principal components of their channels.

    Channels are the samples and tokens the variables. Beyond the rank a loading is 0.
    """
    samples = hidden.double().sigmoid()  # (N, d)
    samples = samples - samples.mean(1, keepdim=True)
    count, channels = samples.shape

    # the smaller of the two products has the same components
    by_token = count <= channels
    product = samples @ samples.mT if by_token else samples.mT @ samples
    variance, axes = torch.linalg.eigh(product)  # ascending
    most = min(components, len(variance))
    variance = variance.flip(0)[:most]  # (C,)
    axes = axes.flip(1)[:, :most]
    if not by_token:
        axes = samples @ axes / variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()

    loadings = samples.new_zeros(count, components)  # (N, C)
    loadings[:, :most] = axes.where(variance > NOTHING * variance[:1], 0)
    return rounded(loadings, BITS)


def _survivors(suppresses: Tensor) -> Tensor:
    """Go through tokens (N, N), most salient first; return which none before suppresses (N,)."""
    survives = suppresses.new_ones(len(suppresses))  # (N,)
    later = suppresses.triu(1)  # (N, N)
    for token, row in enumerate(later):
        survives = survives & ~(row & survives[token])
    return survives


def _quotas(sizes: Tensor, survivors: Tensor, budget: int) -> Tensor:
    """Split a budget among C groups by their survivors.

    Args:
        sizes: (C,) tokens of each group.
        survivors: (C,) how many of them survive.
        budget: K.

    Returns:
        (C,), K in all, no group more than it has.
    """
    # the bounds: one of each group; together the upper ones leave room for the budget
    least = sizes.clamp(max=1)  # (C,)
    most = survivors.clamp(max=LARGEST * math.ceil(budget / 64))
    raised = torch.arange(budget + 1, device=sizes.device)[:, None]  # (K + 1, 1)
    wider = (most + raised).minimum(sizes)  # (K + 1, C)
    enough = (wider.sum(1) < budget).sum().clamp(max=budget)
    most = wider.index_select(0, enough[None])[0]  # (C,)

    # the rest of the budget in proportion to the survivors
    rest = budget - least.sum()
    reached = (survivors.cumsum(0).double() * rest / survivors.sum()).round().long()  # (C,)
    quota = (least + reached.diff(prepend=reached.new_zeros(1))).minimum(most)

    # what the bounds leave goes to the groups with most survivors
    order = survivors.argsort(descending=True, stable=True)  # (C,)
    room = (most - quota)[order]
    before = room.cumsum(0) - room
    missing = budget - quota.sum()
    extra = (missing - before).clamp(min=0).minimum(room)
    return quota.scatter_add(0, order, extra)
