"""ToMe: alike tokens merged pair by pair."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner, Selection
from adafv.core.signals import KEYS
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.pool import means
from adafv.ops.cosine import cosines

__all__ = ["ToMe"]


@dataclass(kw_only=True)
class ToMe(Pruner):
    """Merges the most similar visual tokens until K are left.

    Daniel Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461.
    Bipartite soft matching: the tokens are divided alternately into A and B, each of A finds the
    token of B whose key (of the vision tower, mean over heads) has the largest cosine with its own,
    and the most similar pairs are merged, by a mean weighted with how many tokens each stands for.
    The merged token sits where its token of B was.

    Departure: the paper merges a few tokens inside every ViT block. Ours leaves the tower alone and
    merges its visual tokens, after the projector, in rounds of at most half, with the tower's keys
    at the features' layer; the key of a merged token is the mean of its tokens' keys. Tokens stay
    in reading order from round to round. Departure: no proportional attention: the LLM isn't told
    how many tokens one stands for.
    """

    name = "tome"
    paper = "arXiv 2210.09461"
    signals = frozenset({KEYS})

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        kept, features = [], []
        for visual, keys, n, k in zip(
            tokens.features, tokens.signals[KEYS], tokens.counts, budget, strict=True
        ):
            places, group = _match(keys[:n], k)
            kept.append(places)
            features.append(means(visual[:n], group, k))
        return Selection(kept, features)


def _match(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where the `count` tokens that are left sit, ascending, and which of them each token went
    into.
    """
    places = group = torch.arange(len(keys), device=keys.device)
    while (left := len(places)) > count:
        merged = min(left - count, left // 2)
        keys_left = means(keys.double(), group, left)
        similarity, partner = cosines(keys_left[::2], keys_left[1::2]).max(1)
        by_similarity = similarity.argsort(descending=True, stable=True)
        a, alone = (2 * by_similarity).split([merged, len(by_similarity) - merged])
        order = torch.arange(left, device=keys.device)
        stay = torch.cat([alone, order[1::2]]).sort().values
        group = torch.searchsorted(
            stay, order.scatter(0, a, 2 * partner[by_similarity[:merged]] + 1)
        )[group]
        places = places[stay]
    return places, group
