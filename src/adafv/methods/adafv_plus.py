"""AdaFV+: what stands out, near what the question is about, and nothing said better already."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.core.evidence import Evidence
from adafv.core.selection import Selection, first
from adafv.core.visual_tokens import VisualTokens
from adafv.methods.adafv import AdaFV
from adafv.ops.cosine import standardised_cosines
from adafv.ops.grid import grids, places
from adafv.ops.precision import exact, rounded
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
class AdaFVPlus(AdaFV):
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
    4. Redundancy. In the order of the score a token is multiplied by 1 - max cos(v_j, v_i) over
       *all* tokens i before it, at whatever distance and scale: the ranking-based masking of
       SFPruner (arXiv 2607.23046), on another score and without its leverage. The best token of
       many that say the same keeps its score, a copy of it has none.
    5. The K highest are kept.

    No loop over picks; a function of (V, a_v, T) and of the tokens' grid coordinates. Only the 8 K
    tokens of the highest score take part in step 4, K + 4096 at most, each beside 1024 before it at
    most: time and memory stay linear. A thing of more than 8 K tokens that outscores all others is
    therefore all that is kept. `benchmarks/low` says what it is worth.

    `reach` brings back the earlier form, for comparison: two lists, of a_t and of a_v, each
    discounted by the cosine with a better token in the 3 × 3 neighbourhood (reach=1) on the same
    grid, and mixed by SACMAM under AdaFV's `reserve` and `mass`.

    Args:
        temperature: of the softmax, in standard deviations.
        spread: standard deviation of the Gaussian, as a share of the image's width and height.
        reach: rows and columns that a neighbourhood extends to each side, 0: no discount. None: the
            five steps above.
    """

    temperature: float = 0.5
    spread: float = 0.2
    reach: int | None = None

    name = "adafv+"
    paper = "ours, on arXiv 2501.09532"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("spread", self.spread, 0.2)
        if self.reach is not None and (self.reach < 0 or self.reach != int(self.reach)):
            raise ValueError(
                f"reach={self.reach} is not a number of rows and columns: "
                "pass an integer of 0 or more, or leave it out"
            )
        if self.reach is None and (self.reserve != 0.25 or self.mass != "whole"):
            raise ValueError(
                f"reserve={self.reserve}, mass={self.mass!r}: adafv+ mixes two lists with a reach "
                "alone, pass reach=1 too, or leave both out"
            )
        if self.center or self.top != 1:
            raise ValueError(
                f"center={self.center}, top={self.top}: adafv+ standardises instead, leave both out"
            )

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the K tokens of the highest score once what better ones say is taken off."""
        if self.reach is not None:
            return super().pick(tokens, budget)

        # score: what stands out, near what is asked about
        nearness, saliency = self.attentions(tokens)  # (I, N) each
        score = saliency * (LEAST + nearness).sqrt()
        score = score.masked_fill(~tokens.mask, -torch.inf)
        ranked, order = score.sort(dim=1, descending=True, stable=True)  # (I, N)

        # the tokens that have a chance; the others follow in the order of their scores
        sizes = [min(SHORTLIST * k, k + BEYOND) for k in budget]
        most = min(max(sizes), order.shape[1])
        size = torch.tensor(sizes).to(order.device, non_blocking=True)  # (I,)
        chance = torch.arange(most, device=order.device) < size[:, None]  # (I, S)
        short, rest = order.split([most, order.shape[1] - most], dim=1)

        # redundancy: what a better token says already
        features = tokens.features.take_along_dim(short[..., None], dim=1)  # (I, S, D)
        left = ranked[:, :most] * (1 - redundancy_ranked(features))  # (I, S)
        left = left.where(chance & ranked[:, :most].isfinite(), -torch.inf)
        best = left.sort(dim=1, descending=True, stable=True).indices
        return Selection(first(torch.cat([short.gather(1, best), rest], dim=1), budget))

    def evidence(self, tokens: VisualTokens) -> Evidence:
        """Return the two scores as they are put together, and what each word points at."""
        found = super().evidence(tokens)
        return found if self.reach is not None else replace(found, reserve=0.0)

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

    def attentions(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """Return relevance and saliency (I, N each) as they are put together.

        Relevance is how near each token is to what is asked about, 0 to 1; with a reach it is a_t,
        and both are discounted by what a better neighbour already says.
        """
        relevance, saliency = super().attentions(tokens)
        if self.reach is None:
            return self._nearness(tokens, relevance), saliency
        if self.reach == 0:
            return relevance, saliency

        lists = torch.stack([relevance, saliency], dim=1)  # (I, 2, N)
        for images, grid in _alike(tokens.coordinates):
            image = images.to(lists.device, non_blocking=True)[:, None]  # (i, 1)
            index = grid.flatten().to(lists.device, non_blocking=True)  # (H · W,)

            # lay scores and features out on the grid
            scores = lists[image, :, index].mT.unflatten(2, grid.shape)  # (i, 2, H, W)
            features = tokens.features[image, index].unflatten(1, grid.shape)  # (i, H, W, D)

            discounted = scores * (1 - redundancy(features, scores, int(self.reach)))
            lists[image, :, index] = discounted.flatten(2).mT  # (i, H · W, 2)
        return lists[:, 0], lists[:, 1]

    def _nearness(self, tokens: VisualTokens, relevance: Tensor) -> Tensor:
        """Return the mean relevance around each token, as a share of the largest (I, N)."""
        pairs = zip(tokens.coordinates, tokens.frames, strict=True)
        place = pad_sequence([places(*pair) for pair in pairs], batch_first=True)  # (I, N, 2)
        place = place.to(relevance.device, non_blocking=True)
        mean = spread(relevance, place, tokens.mask, self.spread)  # (I, N)
        return mean / mean.amax(1, keepdim=True).clamp(min=TINY)


@exact
def redundancy_ranked(features: Tensor) -> Tensor:
    """Find the largest cosine of each token with one that is not far before it, at least 0.

    Args:
        features: (I, S, D), the best token first; each meets `WINDOW` - `STRIP` before it or more.

    Returns:
        (I, S).
    """
    unit = F.normalize(features.float(), dim=-1, eps=TINY)
    largest = []
    for start in range(0, unit.shape[1], STRIP):
        end = start + STRIP
        oldest = max(0, end - WINDOW)
        # only those before it: half of the products, and never a whole matrix
        cosine = unit[:, start:end] @ unit[:, oldest:end].mT  # (I, strip, end - oldest)
        before = cosine.tril(start - oldest - 1)  # 0 elsewhere
        largest.append(before.amax(2))
    return rounded(torch.cat(largest, dim=1), BITS).clamp_(0, 1)


@exact
def redundancy(features: Tensor, scores: Tensor, reach: int) -> Tensor:
    """Find the largest cosine of each token with one nearby that a list ranks higher.

    Args:
        features: (I, H, W, D) of the tokens of one grid.
        scores: (I, L, H, W) of L lists. Equal scores: the earlier token is the better one.
        reach: rows and columns to each side.

    Returns:
        (I, L, H, W), at least 0.
    """
    height, width = scores.shape[-2:]
    features = features.float()
    length = features.norm(dim=-1).clamp(min=TINY)  # (I, H, W)
    largest = torch.zeros_like(scores)  # (I, L, H, W)

    for down in range(min(reach, height - 1) + 1):
        upper = slice(0, height - down)
        lower = slice(down, height)

        # cosines of whole rows with the whole rows `down` below: one large product
        rows = features[:, upper] @ features[:, lower].mT  # (I, H - down, W, W)
        rows.div_(length[:, upper, :, None] * length[:, lower, None])

        # Neighbours `right` columns apart are a diagonal of it. Within a row only those to the
        # right: every pair is looked at once.
        aside = min(reach, width - 1)
        for right in range(-aside if down else 1, aside + 1):
            cosine = rows.diagonal(right, dim1=-2, dim2=-1)  # (I, H - down, W - |right|)
            one = (..., upper, slice(max(0, -right), width - max(0, right)))
            other = (..., lower, slice(max(0, right), width - max(0, -right)))

            # the worse of the two is redundant, in each list on its own
            one_is_better = scores[one] >= scores[other]  # (I, L, H - down, W - |right|)
            largest[other] = largest[other].maximum(cosine[:, None] * one_is_better)
            largest[one] = largest[one].maximum(cosine[:, None] * ~one_is_better)
    return largest


def _alike(coordinates: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and the (H, W) indices of their tokens on a grid, equal grids together."""
    members: dict[bytes, list[int]] = {}
    for i, of_image in enumerate(coordinates):
        members.setdefault(of_image.numpy().tobytes(), []).append(i)
    for images in members.values():
        for grid in grids(coordinates[images[0]]):
            yield torch.tensor(images), grid
