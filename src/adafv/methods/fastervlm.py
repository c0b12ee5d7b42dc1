"""FasterVLM: saliency alone."""

from dataclasses import dataclass

from torch import Tensor

from adafv.core.nested import ScoringPruner
from adafv.core.visual_tokens import VisualTokens
from adafv.methods._saliency_rig import SaliencyRig

__all__ = ["FasterVLM"]


@dataclass(kw_only=True)
class FasterVLM(SaliencyRig, ScoringPruner):
    """Keeps what the CLS token of the vision tower attends to, whatever the question.

    Qizhe Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning",
    arXiv 2412.01818.
    Departure: one budget for all crops, where the published figures of LLaVA-NeXT have one for each
    (`crops="each"`) and the crops' padding among the candidates. Towers without CLS: the attention
    a patch receives.

    Args:
        saliency: "attention": see above. "received": the mean attention a patch receives, with CLS
            or without. "distinctness": 1 - mean cosine of a visual token with the others; no
            attention at all.
        heads: of "received": "mean", or "max", the strongest for each query.
        depth: of the layer whose attention counts, 0 (the first) to 1 (the last). None: that of the
            features.
    """

    name = "fastervlm"
    paper = "arXiv 2412.01818"

    def score(self, tokens: VisualTokens) -> Tensor:
        """Rank by saliency, see `adafv.ops.saliency.cls_attention`."""
        return self.observed(tokens)
