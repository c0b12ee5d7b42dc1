"""CDPruner: diverse tokens, given the question."""

from dataclasses import dataclass

from adafv.core.visual_tokens import VisualTokens
from adafv.methods._greedy import GreedyPruner
from adafv.ops.cosine import product, unit
from adafv.ops.coverage import Gains
from adafv.ops.relevance import mean_relevance

__all__ = ["CDPruner"]

NOTHING = 1e-9  # below it the gain of a token in the span of those picked is rounding


@dataclass(kw_only=True)
class CDPruner(GreedyPruner):
    """Keeps the most probable subset of a determinantal point process conditioned on the question.

    Qizhe Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token
    Pruning in MLLMs", NeurIPS 2025, arXiv 2506.10967. The kernel is r_i · cos(i, j) · r_j with r
    the relevance of each visual token to the question, min-max normalised over the image. Greedy
    MAP: each pick adds most to the log-determinant, by an incremental Cholesky factorisation.

    Departure: the paper's relevance is the (negated) cosine of a CLIP text tower with CLIP's
    patches. Here it is the mean over the words of the cosine with the LLM's own input embeddings,
    not negated, as any model has those.
    Departure: one budget for all crops, where the published figures of LLaVA-NeXT have one for each
    (`crops="each"`) and the crops' padding among the candidates. They normalise relevance over all
    crops even so, here each crop has its own range.
    Departure: beyond the rank of the kernel no token gains anything; the lowest indices fill the
    budget. Where the question tells no token from another (or there is none) r is 1 everywhere:
    diversity alone.
    """

    name = "cdpruner"
    paper = "arXiv 2506.10967"
    stepwise = True
    needs_text = True

    def gains(self, tokens: VisualTokens, count: int) -> Gains:
        """Yield what each token adds to the log-determinant of the kernel, pick after pick."""
        # the kernel, conditioned on the question, is r_i · cos(i, j) · r_j: picks need a row each
        assert tokens.text is not None
        assert tokens.text_mask is not None
        relevance = mean_relevance(tokens.text, tokens.text_mask, tokens.features, tokens.mask)
        features = unit(tokens.features)  # (I, N, D)

        # greedy MAP: the Cholesky factor grows by a row for each pick
        gain = relevance * features.any(2) * relevance  # (I, N) the diagonal
        factor = features.new_empty(len(features), count, features.shape[1])  # (I, K, N)
        for turn in range(count):
            gain = gain.where(gain > NOTHING, 0)
            pick = yield gain  # (I, 1)

            picked = features.take_along_dim(pick[..., None], dim=1)  # (I, 1, D)
            cosine = product(picked, features)[:, 0]  # (I, N)
            row = relevance.gather(1, pick) * cosine * relevance

            # less its part in the span of the picks before
            before = factor[:, :turn]  # (I, turn, N)
            column = before.take_along_dim(pick[:, None], dim=2)  # (I, turn, 1)
            row = row - (column.mT @ before)[:, 0]

            height = gain.gather(1, pick)  # (I, 1)
            row = (row / height.sqrt()).where(height > 0, 0)
            factor[:, turn] = row
            gain = gain - row.square()
