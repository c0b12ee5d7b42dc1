"""AdaFV+: words on one scale, and nothing that a better neighbour already says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.visual_tokens import VisualTokens
from adafv.methods.adafv import AdaFV
from adafv.ops.cosine import standardised_cosines
from adafv.ops.grid import grids
from adafv.ops.precision import exact

__all__ = ["AdaFVPlus"]

TINY = 1e-12  # length of a feature that has none


@dataclass(kw_only=True)
class AdaFVPlus(AdaFV):
    """AdaFV with words on one scale, and a discount for what a better neighbour already says.

    Ours; both parts were chosen on the validation split.

    Relevance. AdaFV gives every word the same mass over the visual tokens, and words that name
    nothing spend theirs on the background. Here each word's cosines are standardised over the
    tokens first, the largest of all words counts, and one softmax over the tokens follows:
    a_t = softmax_N(max_M z / temperature).

    Redundancy discount. A large thing fills dozens of patches that say the same, and both lists
    rank them all before the first patch of anything else. So, in each list on its own and before
    the mixture, a token's score is multiplied by 1 - max cos(v_j, v_i) over the tokens i around it
    on the same grid that the list ranks higher. The best token of a neighbourhood keeps its score,
    a copy of it has none, and what differs from its surroundings (an edge, a letter) keeps most.

    No loop over picks; still a function of (V, a_v, T) and of the tokens' grid coordinates.
    `benchmarks/ablation` says what either part is worth.

    Args:
        temperature: of the softmax, in standard deviations.
        reach: rows and columns that a neighbourhood extends to each side; 0: no discount.
    """

    temperature: float = 0.5
    reach: int = 1

    name = "adafv+"
    paper = "ours, on arXiv 2501.09532"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reach < 0 or self.reach != int(self.reach):
            raise ValueError(
                f"reach={self.reach} is not a number of rows and columns: "
                "pass an integer of 0 or more"
            )
        if self.center or self.top != 1:
            raise ValueError(
                f"center={self.center}, top={self.top}: adafv+ standardises instead, leave both out"
            )

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
        """Return a_t and a_v (I, N each), discounted by what a better neighbour already says."""
        relevance, saliency = super().attentions(tokens)
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
