"""The evidence on which a method chooses, for whoever explains the choice."""

from dataclasses import dataclass

from torch import Tensor

from adafv.utils.checks import checked

__all__ = ["Evidence"]


@checked
@dataclass(frozen=True)
class Evidence:
    """The scores that a method weighs when it chooses; None: the method has no such score.

    Attributes:
        saliency: (I, N) how much each visual token stands out, as the method uses it.
        relevance: (I, N) how strongly the question points at each visual token.
        words: (I, M, N) the same for each text token of the question on its own.
        reserve: share of the budget that either list is sure of, where two are mixed.
        attention: saliency is attention of the tower; else 1 - mean cosine of a token with others.
    """

    saliency: Tensor | None = None
    relevance: Tensor | None = None
    words: Tensor | None = None
    reserve: float = 0.0
    attention: bool = True
