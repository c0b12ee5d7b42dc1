"""MMTok: tokens that cover the words of the question and the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.signals import HIDDEN
from adafv.core.visual_tokens import VisualTokens
from adafv.methods._greedy import GreedyPruner
from adafv.ops.cosine import cosines, pairwise_cosines
from adafv.ops.coverage import Gains, coverage
from adafv.utils.checks import positive

__all__ = ["MMTok"]

UNIT = 2.0**50  # as in `cosines`: coverage is a multiple of its inverse, so that sums are exact
TINY = 1e-200  # sum of a row that resembles nothing, not even itself: a vector of zeros
STRIP = 64  # tokens at a time
HEAVIEST = 7  # beside the question's 1: sums of up to 2^53 units are exact in fp64


@dataclass(kw_only=True)
class MMTok(GreedyPruner):
    """Keeps the tokens that together come closest to every word and to every visual token.

    Sixun Dong et al., "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs",
    ICLR 2026, arXiv 2508.18264. Each of the M words and of the N visual tokens is a row p_i:
    softmax over the visual tokens j of cos(i, j) / temperature. A word meets the visual tokens
    after the projector, in the space of its embedding; visual tokens meet each other before it, as
    hidden states of the tower at the features' layer. Greedy maximum coverage of

        1/M · sum over words i of max_{j in S} p_ij + weight/N · sum over visual tokens i of max_{j
        in S} p_ij.

    Departure: the words are all those of the question. The authors leave out stop words,
    punctuation and two sentences that benchmarks add to every question, and split at white space:
    `skip=adafv.models.boilerplate.boilerplate(processor)` is near.
    Departure: one budget, one softmax and one coverage for all crops, where the authors have one
    for each crop of LLaVA-NeXT (`crops="each"`).

    Args:
        text_temperature: of the softmax of a word over the visual tokens (paper: 0.02; 0.01 for
            Qwen).
        visual_temperature: of that of a visual token (paper: 0.2).
        weight: of covering the image beside covering the question, 0 to 7 (paper: 0.5).
    """

    text_temperature: float = 0.02
    visual_temperature: float = 0.2
    weight: float = 0.5

    name = "mmtok"
    paper = "arXiv 2508.18264"
    stepwise = True
    signals = frozenset({HIDDEN})
    needs_text = True

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("text_temperature", self.text_temperature, 0.02)
        positive("visual_temperature", self.visual_temperature, 0.2)
        if not 0 <= self.weight <= HEAVIEST:
            raise ValueError(
                f"weight={self.weight} of the image's coverage is out of range: "
                f"pass 0 to {HEAVIEST}, e.g. 0.5"
            )

    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """Yield what each token adds to the coverage of words and image, pick after pick."""
        assert tokens.text is not None
        assert tokens.text_mask is not None

        hidden = tokens.signals[HIDDEN]  # (I, N, d)
        images, length = hidden.shape[:2]
        words = tokens.text.shape[1]
        # written in place: a second matrix of N · N would cost as much time as the products
        columns = hidden.new_empty(images, length, words + length, dtype=torch.float64)

        # words meet the visual tokens after the projector
        cosine = cosines(tokens.features, tokens.text)  # (I, N, M)
        cosine.masked_fill_(~tokens.mask[..., None], -1)
        cosine.sub_(cosine.amax(1, keepdim=True))
        columns[..., :words] = cosine.div_(self.text_temperature).exp_()

        # visual tokens meet each other before it; no cosine is larger than 1
        pairwise_cosines(
            hidden,
            out=columns[..., words:],
            then=lambda cosine: cosine.sub_(1).div_(self.visual_temperature).exp_(),
        )

        # rows are probabilities over the visual tokens; a padded row weighs nothing
        of_image = self.weight * _equal(tokens.mask)  # (I, N)
        weight = torch.cat([_equal(tokens.text_mask), of_image], dim=1)  # (I, M + N)
        return coverage(_normalised(columns, tokens.mask, weight))


def _equal(mask: Tensor) -> Tensor:
    """Return weights (I, R) in fp64 that are equal where a mask is true, and add up to 1."""
    return mask.double() / mask.sum(1, keepdim=True).clamp(min=1)


def _normalised(columns: Tensor, tokens: Tensor, weight: Tensor) -> Tensor:
    """Let each row of columns add up to its weight over the tokens, in place.

    Args:
        columns: (I, N, R), what each token is to each row, 0 or more.
        tokens: (I, N), true where there is a token.
        weight: (I, R), of each row.

    Returns:
        The same tensor, in whole units of 1 / `UNIT`.
    """
    there = tokens.double()  # (I, N)
    total = there[:, None] @ columns  # (I, 1, R)
    # all tokens would cover a row of zeros alike: it decides nothing
    factor = (UNIT * weight[:, None] / total).where(total > TINY, 0)  # (I, 1, R)
    # a few tokens at a time: they stay in the cache
    for some, real in zip(columns.split(STRIP, 1), there.split(STRIP, 1), strict=True):
        some.mul_(factor).mul_(real[..., None]).round_()
    return columns
