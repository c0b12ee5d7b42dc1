"""AdaFV+: what stands out, near what the question is about, and nothing said better already."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.core.evidence import Evidence
from adafv.core.pruner import Pruner
from adafv.core.selection import Selection, first
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.cosine import standardised_cosines
from adafv.ops.grid import places
from adafv.ops.precision import rounded
from adafv.ops.relevance import spread
from adafv.utils.checks import positive

__all__ = ["AdaFVPlus"]

BITS = 20  # behind the point of a cosine, so that copies say exactly the same on every device
LEAST = 0.1  # of nearness: what is far from everything named may still be the answer
SHORTLIST = 8  # times K: tokens whose score alone is lower have no chance
BEYOND = 4096  # and no more than so many beside the K
WINDOW = 1024  # better tokens that one is compared with at most, the next ones up
STRIP = 192  # rows of cosines at a time
TINY = 1e-12  # length of a feature that has none


@dataclass(kw_only=True)
class AdaFVPlus(Pruner):
    """Ranks tokens that stand out, near what is asked about, and that no better token resembles.

    Ours; every part was chosen on the validation split. What is asked for is often not what is
    named ("what is left of the key?", "what is written next to it?"): it stands out, and it is
    near. So relevance says where to look, saliency what is to be seen there.

    1. Relevance. AdaFV (arXiv 2501.09532) gives every word the same mass over the visual tokens,
       and words that name nothing spend theirs on the background. Here each word's cosines are
       standardised over the tokens first, the largest of all words counts, and one softmax over
       the tokens follows: a_t = softmax_N(max_M z / temperature).
    2. Nearness. a_t is averaged around each token with a Gaussian of width `spread` over the image.
       The thumbnail and the tiles lie on one plane, so what either says of a place counts for both.
    3. Score. a_v · sqrt(0.1 + nearness), nearness as a share of its maximum.
    4. Redundancy. In the order of the score a token is multiplied by 1 - max cos(v_j, v_i) over all
       tokens i before it at its own scale, at whatever distance: the ranking-based masking of
       SFPruner (arXiv 2607.23046), on another score and without its leverage. The best token of
       many that say the same keeps its score, a copy of it has none. The thumbnail's tokens take
       nothing off the tiles', nor these off them: a place seen large and small says two things,
       and reading needs both (`benchmarks/ablation`).
    5. The K highest are kept.

    No loop over picks; a function of (V, a_v, T) and of the tokens' grid coordinates. Only the 8 K
    tokens of the highest score take part in step 4, K + 4096 at most, each beside 1024 before it at
    most: time and memory stay linear. A thing of more than 8 K tokens that outscores all others is
    therefore all that is kept. `benchmarks/low` says what it is worth.

    Args:
        temperature: of the softmax, in standard deviations.
        spread: standard deviation of the Gaussian, as a share of the image's width and height.
        distinct: take off what better tokens say. False: steps 1 to 3 alone, as an ablation.
    """

    temperature: float = 0.5
    spread: float = 0.2
    distinct: bool = True

    name = "adafv+"
    paper = "ours, on arXiv 2501.09532"
    signals = frozenset({SALIENCY})
    needs_text = True

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("temperature", self.temperature, 0.5)
        positive("spread", self.spread, 0.2)

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the K tokens of the highest score once what better ones say is taken off."""
        # score: what stands out, near what is asked about
        nearness = self.nearness(tokens)  # (I, N)
        score = tokens.saliency * (LEAST + nearness).sqrt()  # (I, N)
        score = score.masked_fill(~tokens.mask, -torch.inf)
        ranked, order = score.sort(dim=1, descending=True, stable=True)  # (I, N)
        if not self.distinct:
            return Selection(first(order, budget))

        # the tokens that have a chance
        chance = _shortlist(budget, order)  # (I, S)
        short, rest = order.tensor_split([chance.shape[1]], dim=1)  # (I, S), (I, N - S)
        ranked = ranked[:, : chance.shape[1]].where(chance, -torch.inf)  # (I, S)

        # redundancy: what a better token says already
        image = torch.arange(len(short), device=short.device)[:, None]  # (I, 1)
        scale = _scales(tokens)[image, short]  # (I, S)
        left = torch.full_like(ranked, -torch.inf)
        end = 0
        for said in redundancy(tokens.features[image, short], scale):  # (I, strip) each
            start, end = end, end + said.shape[1]
            some = ranked[:, start:end]
            left[:, start:end] = torch.where(some.isfinite(), some * (1 - said), -torch.inf)
            # elsewhere the host would wait for the device
            if left.is_cpu and _is_settled(left, ranked, end, budget):
                break

        # the highest of what is left; the other tokens follow in the order of their scores
        best = left.sort(dim=1, descending=True, stable=True).indices
        return Selection(first(torch.cat([short.gather(1, best), rest], dim=1), budget))

    def nearness(self, tokens: VisualTokens) -> Tensor:
        """Return the mean relevance around each token, as a share of the largest (I, N)."""
        sizes = tokens.sizes or (None,) * len(tokens.counts)
        grids = zip(tokens.coordinates, tokens.frames, sizes, strict=True)
        place = pad_sequence([places(*grid) for grid in grids], batch_first=True)  # (I, N, 2)
        place = place.to(tokens.features.device, non_blocking=True)
        mean = spread(self.relevance(tokens), place, tokens.mask, self.spread)  # (I, N)
        return mean / mean.amax(1, keepdim=True).clamp(min=TINY)

    def relevance(self, tokens: VisualTokens) -> Tensor:
        """Return softmax_N(max_M z / temperature), z the standardised cosines (I, N)."""
        sharpened = self._sharpened(tokens)  # (I, M, N)
        if sharpened.shape[1] == 0:
            return sharpened.sum(1)  # (I, N) of zeros: no word, no relevance
        strongest = sharpened.amax(1)  # (I, N)
        # NaN: a prompt without a word beside others that have some
        return strongest.masked_fill(~tokens.mask, -torch.inf).softmax(-1).nan_to_num()

    def word_relevance(self, tokens: VisualTokens) -> Tensor:
        """Return what each text token on its own points at, 1 at the strongest (I, M, N)."""
        sharpened = self._sharpened(tokens)  # (I, M, N)
        if sharpened.shape[1] == 0:
            return sharpened
        sharpened = sharpened.masked_fill(~tokens.mask[:, None], -torch.inf)
        highest = sharpened.amax((1, 2), keepdim=True)  # (I, 1, 1)
        return (sharpened - highest).exp().nan_to_num()

    def _sharpened(self, tokens: VisualTokens) -> Tensor:
        """Return z / temperature, -inf for a text token that is padding (I, M, N)."""
        assert tokens.text is not None
        assert tokens.text_mask is not None
        standing = standardised_cosines(tokens.text, tokens.features, tokens.mask)  # (I, M, N)
        return standing.masked_fill(~tokens.text_mask[..., None], -torch.inf) / self.temperature

    def evidence(self, tokens: VisualTokens) -> Evidence:
        """Return saliency, relevance before it is spread, and what each word points at."""
        return replace(
            super().evidence(tokens),
            relevance=self.relevance(tokens),
            words=self.word_relevance(tokens),
        )


def _shortlist(budget: list[int], order: Tensor) -> Tensor:
    """Return (I, S) true where the first S tokens of an order (I, N) have a chance at a budget."""
    sizes = [min(SHORTLIST * k, k + BEYOND) for k in budget]
    longest = min(max(sizes), order.shape[1])  # S
    size = torch.tensor(sizes).to(order.device, non_blocking=True)  # (I,)
    return torch.arange(longest, device=order.device) < size[:, None]


def _is_settled(left: Tensor, ranked: Tensor, end: int, budget: list[int]) -> bool:
    """Return whether the K highest are among the first `end` tokens of each image.

    Nothing is left of a later one but its score at most.

    Args:
        left: (I, S) what is left of the scores of the first `end`.
        ranked: (I, S) the scores, descending.
    """
    if end >= ranked.shape[1]:
        return True
    for own, score, k in zip(left, ranked, budget, strict=True):
        if k > end or own[:end].topk(k).values[-1] < score[end]:
            return False
    return True


def _scales(tokens: VisualTokens) -> Tensor:
    """Return (I, N) true for the thumbnail's tokens, which show all at a scale of their own."""
    scales = [coordinates[:, 0] == 0 for coordinates in tokens.coordinates]
    return pad_sequence(scales, batch_first=True).to(tokens.device, non_blocking=True)


def redundancy(features: Tensor, scale: Tensor) -> Iterator[Tensor]:
    """Find the largest cosine of each token with one of its scale not far before it, at least 0.

    Args:
        features: (I, S, D), the best token first; each meets `WINDOW` - `STRIP` before it or more.
        scale: (I, S) true for one scale, false for the other.

    Yields:
        (I, `STRIP`) of the next tokens, of all S in the end.
    """
    unit = F.normalize(features.float(), dim=-1, eps=TINY)
    for start in range(0, unit.shape[1], STRIP):
        end = start + STRIP
        oldest = max(0, end - WINDOW)
        # only those before it: half of the products, and never a whole matrix
        cosine = unit[:, start:end] @ unit[:, oldest:end].mT  # (I, strip, end - oldest)
        same = scale[:, start:end, None] == scale[:, None, oldest:end]
        before = (cosine * same).tril(start - oldest - 1)  # 0 elsewhere
        yield rounded(before.amax(2), BITS).clamp_(0, 1)
