"""DART: tokens that duplicate none of a few pivots."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.budget import split_budget
from adafv.ops.cosine import cosines

__all__ = ["DART"]


@dataclass(kw_only=True)
class DART(Pruner):
    """Keeps a few pivots and, for each of them, the tokens that resemble it least.

    Zichen Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication
    Matters More", EMNLP 2025, arXiv 2502.11494. Four visual tokens and four words are pivots; each
    in turn adds an eighth of what is left of the budget, the tokens of lowest cosine among those
    that remain. Kept are the visual pivots and what was added.

    Departure: this is the variant before the LLM, on its input embeddings, as in NVIDIA's
    TensorRT-Edge-LLM. The paper prunes before the LLM's layer 2, on hidden states, and pivots are
    the tokens with the largest norm of their keys. Here it is the L1 norm of the embedding.
    Departure: K is exact. The authors keep 4 + 8 · floor(M / 8) tokens for a budget of M, 132 for
    "128". Their kept tokens keep their positions (`positions="original"`).
    Departure: pivots take turns by falling norm, visual ones first (the authors: in the order of a
    set); the first ones add one more where the budget doesn't divide. A visual pivot has a second
    turn in place of a word that the question doesn't have. A budget below the number of visual
    pivots keeps those of largest norm.

    Args:
        pivots: how many visual tokens, and how many words, are pivots (paper: 4).
    """

    pivots: int = 4

    name = "dart"
    paper = "arXiv 2502.11494"
    needs_text = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pivots < 1 or self.pivots != int(self.pivots):
            raise ValueError(
                f"pivots={self.pivots} is not a number of tokens: "
                "pass an integer of 1 or more, e.g. 4"
            )

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the visual pivots, and for every pivot in turn the tokens least like it."""
        assert tokens.text is not None
        assert tokens.text_mask is not None
        kept = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            visual = tokens.features[i, :count]  # (N, D)
            kept.append(self._select(visual, tokens.text[i], tokens.text_mask[i], k))
        return Selection(kept)

    def _select(self, visual: Tensor, text: Tensor, text_mask: Tensor, budget: int) -> Tensor:
        """Keep K tokens (K,) of one image (N, D), asked about in words (M, D)."""
        pivots = min(int(self.pivots), budget)

        # visual pivots: the tokens of largest norm
        visual_pivots = _descending(_norm(visual))[:pivots]  # (pivots,)

        # pivots among the words; where there are too few a visual pivot has a second turn
        text = F.pad(text, (0, 0, 0, pivots))  # (M + pivots, D)
        text_mask = F.pad(text_mask, (0, pivots))
        word_pivots = _descending(_norm(text).masked_fill(~text_mask, -1))[:pivots]
        words = text[word_pivots].where(text_mask[word_pivots, None], visual[visual_pivots])

        # each pivot in turn adds its share: the tokens of lowest cosine among those that remain
        similarity = cosines(torch.cat([visual[visual_pivots], words]), visual)  # (2 pivots, N)
        shares = split_budget(budget - pivots, [1] * len(similarity))
        kept = [visual_pivots]
        for cosine, share in zip(similarity, shares, strict=True):
            remaining = cosine.index_fill(0, torch.cat(kept), torch.inf)  # (N,)
            kept.append(remaining.argsort(stable=True)[:share])
        return torch.cat(kept).sort().values


def _norm(x: Tensor) -> Tensor:
    """Return the L1 norm of each vector."""
    return x.double().abs().sum(-1)


def _descending(x: Tensor) -> Tensor:
    """Return the indices in descending order; ties: the lower one first."""
    return x.argsort(descending=True, stable=True)
