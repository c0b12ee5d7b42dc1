"""ToMe: alike tokens merged pair by pair."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
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
    The merged token has the position of its token of B.

    Departure: the paper merges a few tokens inside every ViT block. Ours leaves the tower alone and
    merges its visual tokens, after the projector, in rounds of at most half, with the tower's keys
    at the features' layer; the key of a merged token is the mean of its tokens' keys. Tokens keep
    their reading order from round to round.
    Departure: no proportional attention: the LLM isn't told how many tokens one stands for.
    """

    name = "tome"
    paper = "arXiv 2210.09461"
    signals = frozenset({KEYS})

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Merge the tokens of each image whose keys are most alike, until K are left."""
        kept = []
        features = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            left, group = _match(tokens.signals[KEYS][i, :count], k)
            kept.append(left)
            features.append(means(tokens.features[i, :count], group, k))  # (K, D)
        return Selection(kept, features)


def _match(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Merge tokens in rounds of bipartite soft matching until `count` are left.

    Args:
        keys: (N, d).
        count: K.

    Returns:
        (K,) indices of the tokens that are left, ascending; (N,) which of those each token went
        into.
    """
    left = torch.arange(len(keys), device=keys.device)  # (L,)
    group = left  # (N,)
    while len(left) > count:
        # divide what is left alternately into A and B
        numbers = torch.arange(len(left), device=keys.device)  # (L,)
        in_a = numbers[::2]
        in_b = numbers[1::2]

        # each of A finds the token of B whose key is most like its own
        keys_left = means(keys.double(), group, len(left))  # (L, d)
        similarity, partner = cosines(keys_left[in_a], keys_left[in_b]).max(1)  # (|A|,)

        # the most similar pairs are merged
        merged = min(len(left) - count, len(left) // 2)
        by_similarity = similarity.argsort(descending=True, stable=True)  # (|A|,)
        goes = by_similarity[:merged]
        alone = by_similarity[merged:]

        # a merged token of A takes the number of its partner in B
        into = numbers.scatter(0, in_a[goes], in_b[partner[goes]])  # (L,)

        # number what is left anew
        remaining = torch.cat([in_a[alone], in_b]).sort().values
        group = torch.searchsorted(remaining, into)[group]
        left = left[remaining]
    return left, group
