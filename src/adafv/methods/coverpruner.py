"""CoverPruner: every token has one among those kept that speaks for it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adafv.core.visual_tokens import VisualTokens
from adafv.methods._greedy import GreedyPruner
from adafv.ops.cosine import cosines
from adafv.ops.coverage import Gains, coverage, on_grid
from adafv.utils.checks import positive

__all__ = ["CoverPruner"]


@dataclass(kw_only=True)
class CoverPruner(GreedyPruner):
    """Keeps the tokens that best represent all tokens, those the question asks for before others.

    Qingchan Zhu et al., "Who Speaks for the Pruned? Visual Token Pruning as Coverage Optimization",
    arXiv 2609.03158. Representational coverage maximisation: of all sets S of K tokens, greedily,
    the one with the largest sum_i w_i · max_{j in S} cos(i, j), with the cosine of the visual
    tokens after the projector, less their mean, and a negative cosine covers nothing. The demand
    w_i is how strongly the question asks for token i.

    Neither the full paper nor code of it was at hand: this is the objective as its abstract and
    summaries of it give it. No released code was available to compare with.
    Departure: the paper's demand is the attention of the question in the first layer of the LLM.
    Here it is that of the words' input embeddings, softmax(cos / temperature) over the visual
    tokens, mean over the words: no layer of the LLM has read the tokens yet. Where there is no word
    every token has the same demand.
    Departure: one mean and one coverage for all crops (`crops="each"`: of each crop its own).

    Args:
        temperature: of the words' softmax over the visual tokens (ours).
    """

    temperature: float = 0.02

    name = "coverpruner"
    paper = "arXiv 2609.03158"
    stepwise = True
    needs_text = True

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("temperature", self.temperature, 0.02)

    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """Yield what each token adds to the coverage of all tokens, pick after pick."""
        # projector-space coverage: cosines around the mean token; a negative one covers nothing
        is_token = tokens.mask[..., None]  # (I, N, 1)
        mean = (tokens.features.double() * is_token).sum(1, keepdim=True)  # (I, 1, D)
        mean = mean / is_token.sum(1, keepdim=True)
        centered = (tokens.features - mean) * is_token  # (I, N, D)
        cosine = cosines(centered, centered).relu_()  # (I, N, N)

        # query-weighted demand
        columns = self.demand(tokens)[:, None] * cosine  # (I, N, N)
        return coverage(on_grid(columns))

    def demand(self, tokens: VisualTokens) -> Tensor:
        """Return how strongly the question asks for each token; each image's sums to 1 (I, N)."""
        assert tokens.text is not None
        assert tokens.text_mask is not None
        words = cosines(tokens.text, tokens.features) / self.temperature  # (I, M, N)
        attention = words.masked_fill(~tokens.mask[:, None], -torch.inf).softmax(-1)
        is_word = tokens.text_mask[..., None]  # (I, M, 1)
        asked = (attention * is_word).sum(1) / is_word.sum(1).clamp(min=1)  # (I, N)
        same = tokens.mask.double() / tokens.mask.sum(1, keepdim=True)
        return asked.where(tokens.text_mask.any(1, keepdim=True), same)
