"""StackTok: coverage first as far as the budget asks for it, then relevance."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.signals import HIDDEN
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.cosine import cosines
from adafv.ops.coverage import on_grid
from adafv.ops.precision import rounded
from adafv.utils.checks import checked, positive

__all__ = ["StackTok"]

WORTH_BITS = 40  # behind the point of what a crop's token adds
IMPROVEMENT = 1e-6  # share by which a swap has to gain, as in the authors' code


@checked
@dataclass(kw_only=True)
class StackTok(Pruner):
    """Keeps tokens that cover the words while those kept cover the image well for their number.

    "StackTok: Accelerating VLMs Inference with Budget-Adaptive Visual Token Selection", arXiv
    2609.16841. Coverage of a set S: the mean over the words (objective), or over the visual tokens
    (support), of max_{j in S} p_ij, p_i a softmax over the visual tokens as in MMTok. Greedy
    maximum support alone, once, gives the support that each number of tokens can have; the target
    is beta of it, beta the entropy of the words' affinity to the visual tokens, mean over words, as
    a share of its maximum, from `beta_min` to `beta_max`. Then token after token: while the support
    is below the target of its number the one that adds most support, else the one that adds most to
    the objective; where none adds, the other of the two decides. Each crop has affinities,
    target and support of its own and names one token; the one that adds most to objective and
    support together is kept. Last, where a crop keeps at most `swaps` tokens, each in turn is
    swapped for the token that gains most, unless the support falls below the target.

    The rule is that of the authors' code; the paper itself was not at hand.
    Departure: the words are all those of the question. The authors leave out stop words and two
    sentences that benchmarks add to every question, and split at white space:
    `skip=adafv.models.boilerplate.boilerplate(processor)` is near.

    Args:
        text_temperature: of the softmax of a word over the visual tokens (authors: 0.02).
        visual_temperature: of that of a visual token (authors: 0.2).
        beta_min, beta_max: least and largest share of the reachable support that is the target
            (authors: 0.3 and 0.9).
        swaps: up to how many tokens of a crop are refined by swaps (authors: 16); 0: none.
    """

    text_temperature: float = 0.02
    visual_temperature: float = 0.2
    beta_min: float = 0.3
    beta_max: float = 0.9
    swaps: int = 16

    name = "stacktok"
    paper = "arXiv 2609.16841"
    stepwise = True
    signals = frozenset({HIDDEN})
    needs_text = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta_min <= self.beta_max <= 1:
            raise ValueError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max} are no bounds of a share: "
                "pass 0 <= beta_min <= beta_max <= 1"
            )
        if self.swaps < 0 or self.swaps != int(self.swaps):
            raise ValueError(
                f"swaps={self.swaps} is not a number of tokens: pass an integer of 0 or more"
            )
        positive("text_temperature", self.text_temperature, 0.02)
        positive("visual_temperature", self.visual_temperature, 0.2)

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Stack tokens one by one in each image, and refine what is kept by swaps."""
        assert tokens.text is not None
        assert tokens.text_mask is not None
        kept = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            # nothing to choose
            if k == count:
                kept.append(torch.arange(count, device=tokens.device))
                continue
            crops = tokens.coordinates[i][:, 0].unique(return_inverse=True)[1]  # (N,)
            crop = crops.to(tokens.device, non_blocking=True)
            stack = _Stack(
                crop,
                number=int(crops.max()) + 1,
                words=cosines(tokens.text[i], tokens.features[i, :count]) / self.text_temperature,
                is_word=tokens.text_mask[i],
                visual=self._support(tokens.signals[HIDDEN][i, :count], crop),
            )
            target = stack.curve(k) * stack.entropy.clamp(self.beta_min, self.beta_max)[:, None]
            for _ in range(k):
                stack.add(target)
            for turn in range(min(int(self.swaps), k)):
                stack.swap(turn, target, int(self.swaps))
            order = stack.turn.sort(descending=True, stable=True).indices  # (N,) kept ones first
            kept.append(order[:k].sort().values)
        return Selection(kept)

    def _support(self, hidden: Tensor, crop: Tensor) -> Tensor:
        """Return the affinity (N, N) of visual tokens (N, d) to those of their crop (N,)."""
        logits = cosines(hidden, hidden) / self.visual_temperature  # (N, N)
        return logits.masked_fill(crop[:, None] != crop, -torch.inf).softmax(-1)


class _Stack:
    """The tokens of an image that are kept so far, and what they cover.

    Args:
        crop: (N,) number of each token's crop.
        number: C, how many crops there are.
        words: (M, N) logits of each word over the visual tokens.
        is_word: (M,), true where a word is no padding.
        visual: (N, N) affinities of the visual tokens, 0 between crops.
    """

    def __init__(
        self, crop: Tensor, number: int, words: Tensor, is_word: Tensor, visual: Tensor
    ) -> None:
        self.crop = crop
        self.member = crop == torch.arange(number, device=crop.device)[:, None]  # (C, N)
        sizes = self.member.sum(1)  # (C,)

        # each word's affinity is a softmax over each crop
        affinity = torch.zeros_like(words)  # (M, N)
        for of_crop in self.member:
            affinity += words.masked_fill(~of_crop, -torch.inf).softmax(-1)
        share = (is_word / is_word.sum().clamp(min=1))[:, None].double()  # (M, 1)

        # entropy of the words' affinity as a share of its maximum, 0 in a crop of one token
        entropy = torch.special.entr(affinity) * share
        self.entropy = _per_crop(entropy.sum(0), self.member) / sizes.log().clamp(min=1e-12)  # (C,)

        # coverage is a mean over words, or over the tokens of a crop
        self.asked = is_word.any()
        self.words = on_grid(affinity * share)  # (M, N)
        self.visual = on_grid(visual / sizes[crop][:, None])  # (N, N)

        # what nothing covers yet, and what is covered
        self.objective = self.words.clone()  # (M, N)
        self.support = self.visual.clone()  # (N, N)
        self.covered = torch.zeros(number, dtype=torch.float64, device=crop.device)  # (C,)
        self.count = torch.zeros_like(sizes)  # (C,) how many tokens of each crop are kept
        self.turn = torch.full_like(crop, -1)  # (N,) when a token was kept; -1: it isn't

    def curve(self, most: int) -> Tensor:
        """Return the support (C, most + 1) that greedy coverage alone reaches with each number."""
        uncovered = self.visual.clone()  # (N, N)
        reached = [torch.zeros_like(self.covered)]
        for _ in range(most):
            gain, picks = self._best(uncovered.sum(0))  # (C,)
            reached.append(reached[-1] + gain)
            covered = uncovered.gather(1, picks[self.crop][:, None])  # (N, 1)
            uncovered.sub_(covered).relu_()
        return torch.stack(reached, dim=1)

    def _best(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest gain (N,) in each crop, and its token; ties: the lower index (C,)."""
        in_crop = gain.where(self.member, -torch.inf)  # (C, N)
        picks = in_crop.argmax(1)
        return in_crop.gather(1, picks[:, None])[:, 0], picks

    def add(self, target: Tensor) -> None:
        """Keep one more token, given the target (C, K + 1) of the support at each number."""
        free = self.turn < 0  # (N,)
        to_objective = self.objective.sum(0)  # (N,)
        to_support = self.support.sum(0)

        # below the target support comes first, else the objective; where none adds, the other
        reached = self.covered >= target.gather(1, self.count[:, None])[:, 0]  # (C,)
        relevance_first = (reached & self.asked)[self.crop]  # (N,)
        first = torch.where(relevance_first, to_objective, to_support)
        second = torch.where(relevance_first, to_support, to_objective)
        adds = self._best(first.where(free, -torch.inf))[0] > 0  # (C,)
        gain = torch.where(adds[self.crop], first, second)

        # each crop names a token; the one that adds most of both is kept
        best, named = self._best(gain.where(free, -torch.inf))  # (C,)
        worth = (to_objective + to_support)[named].masked_fill(best.isneginf(), -torch.inf)
        # what ties between crops differs in the last bits: the shares of two tokens add up to one
        crop = rounded(worth, WORTH_BITS).argmax(0, keepdim=True)  # (1,)
        pick = named[crop]  # (1,)

        self.covered = self.covered.index_add(0, crop, to_support[pick])
        self.turn = self.turn.scatter(0, pick, self.count[crop])
        self.count = self.count.index_add(0, crop, torch.ones_like(crop))
        same = self.crop == crop  # (N,)
        self.objective.sub_(self.objective[:, pick] * same).relu_()
        self.support.sub_(self.support[:, pick].clone()).relu_()

    def swap(self, turn: int, target: Tensor, most: int) -> None:
        """Swap in each crop of at most `most` tokens the one kept at a turn, if that gains."""
        out = (self.turn == turn) & (self.count <= most)[self.crop]  # (N,)
        rest = (self.turn >= 0) & ~out

        # what the others cover, and what each token would make of it
        by_rest = (self.visual * rest).amax(1)  # (N,)
        words_by_rest = torch.stack([(self.words * (rest & c)).amax(1) for c in self.member])
        support = _per_crop(by_rest, self.member)[self.crop]  # (N,)
        support = support + (self.visual - by_rest[:, None]).relu().sum(0)
        objective = words_by_rest.sum(1)[self.crop]  # of (C, M)
        objective = objective + (self.words - words_by_rest[self.crop].mT).relu().sum(0)
        both = support + objective  # (N,)

        # the best that keeps the support at its target, or where it is
        floor = target.gather(1, self.count[:, None])[:, 0].minimum(self.covered)  # (C,)
        fits = (self.turn < 0) & (support >= floor[self.crop])
        gain, best = self._best(both.where(fits, -torch.inf))  # (C,)
        now = _per_crop(both.where(out, 0), self.member)  # (C,) a token swapped for itself
        swaps = (self.member & out).any(1) & (gain > now * (1 + IMPROVEMENT))  # (C,)

        into = F.one_hot(best, len(out)).bool() & swaps[:, None]  # (C, N)
        self.covered = torch.where(swaps, support[best], self.covered)
        self.turn = self.turn.masked_fill(out & swaps[self.crop], -1)
        self.turn = self.turn.masked_fill(into.any(0), turn)


def _per_crop(values: Tensor, member: Tensor) -> Tensor:
    """Sum values (N,) over the tokens of each crop (C, N)."""
    return (values * member).sum(1)
