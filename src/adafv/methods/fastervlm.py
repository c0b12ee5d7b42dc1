"""FasterVLM: saliency alone."""

from dataclasses import dataclass

from torch import Tensor

from adafv.capture import SALIENCY
from adafv.encoding import VisualTokens
from adafv.pruner import ScoringPruner

__all__ = ["FasterVLM"]


@dataclass(kw_only=True)
class FasterVLM(ScoringPruner):
    """Keeps what the CLS token of the vision tower attends to, whatever the question.

    Qizhe Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning", arXiv 2412.01818.
    Departure: one budget for all crops, not one for each. Towers without CLS: the attention a patch receives.
    """

    name = "fastervlm"
    paper = "arXiv 2412.01818"
    signals = frozenset({SALIENCY})

    def score(self, tokens: VisualTokens) -> Tensor:
        return tokens.saliency
