"""FasterVLM: saliency alone."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.core.pruner import ScoringPruner, one_of
from adafv.core.signals import SALIENCY, Signal
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.saliency import distinctness
from adafv.utils.checks import checked

__all__ = ["FasterVLM"]


@checked
@dataclass(kw_only=True)
class FasterVLM(ScoringPruner):
    """Keeps what the CLS token of the vision tower attends to, whatever the question.

    Qizhe Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning",
    arXiv 2412.01818.
    Departure: one budget for all crops, where the published figures of LLaVA-NeXT have one for each
    (`crops="each"`) and the crops' padding among the candidates. Towers without CLS: the attention
    a patch receives.

    Args:
        saliency: "attention": see above. "received": the mean attention a patch receives, with CLS
            or without. "distinctness": how much a visual token differs from the others; no
            attention at all.
        heads: of "received": "mean", or "max", the strongest for each query.
        depth: of the layer whose attention counts, 0 (the first) to 1 (the last). None: that of the
            features.
    """

    saliency: Literal["attention", "received", "distinctness"] = "attention"
    heads: Literal["mean", "max"] = "mean"
    depth: float | None = None

    name = "fastervlm"
    paper = "arXiv 2412.01818"
    signals = frozenset({SALIENCY})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("saliency", self.saliency, "attention", "received", "distinctness")
        one_of("heads", self.heads, "mean", "max")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(
                f"depth={self.depth} is no place in the tower: pass 0 (the first layer) to 1 (the last)"
            )
        self.signals = frozenset(self._read())  # type: ignore[misc]

    def score(self, tokens: VisualTokens) -> Tensor:
        if self.saliency == "distinctness":
            each = [
                distinctness(f[:n]) for f, n in zip(tokens.features, tokens.counts, strict=True)
            ]
            return pad_sequence(each, batch_first=True)
        (signal,) = self._read()
        return tokens.signals[signal]

    def _read(self) -> tuple[Signal, ...]:
        """What it asks of the tower: one signal, or none."""
        return (
            ()
            if self.saliency == "distinctness"
            else (Signal(self.saliency, self.depth, self.heads),)
        )
