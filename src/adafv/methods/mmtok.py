"""MMTok: tokens that cover the words of the question and the image."""

from dataclasses import dataclass

import torch

from adafv.core.signals import HIDDEN
from adafv.core.visual_tokens import VisualTokens
from adafv.methods._greedy import GreedyPruner
from adafv.ops.cosine import cosines
from adafv.ops.coverage import Gains, coverage, on_grid, shares

__all__ = ["MMTok"]


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
        weight: of covering the image beside covering the question (paper: 0.5).
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
        for option in ("text_temperature", "visual_temperature"):
            value = getattr(self, option)
            if not value > 0:
                raise ValueError(f"{option}={value} is not positive: pass e.g. 0.02")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(
                f"weight={self.weight} of the image's coverage is out of range: "
                "pass 0 or more, e.g. 0.5"
            )

    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """Yield what each token adds to the coverage of words and image, pick after pick."""
        assert tokens.text is not None
        assert tokens.text_mask is not None

        # coverage of the question: words meet the visual tokens after the projector
        words = cosines(tokens.text, tokens.features) / self.text_temperature  # (I, M, N)
        words = shares(words, tokens.text_mask, tokens.mask)

        # coverage of the image: visual tokens meet each other before it
        hidden = tokens.signals[HIDDEN]  # (I, N, d)
        visual = cosines(hidden, hidden) / self.visual_temperature  # (I, N, N)
        visual = self.weight * shares(visual, tokens.mask, tokens.mask)

        rows = torch.cat([words, visual], dim=1)  # (I, M + N, N)
        return coverage(on_grid(rows))
