"""The ablation of saliency: which layer it is read at, and what of its attention counts."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adafv.core.evidence import Evidence
from adafv.core.pruner import Pruner
from adafv.core.signals import Signal
from adafv.core.visual_tokens import VisualTokens
from adafv.ops.saliency import mean_cosine_distance
from adafv.utils.checks import one_of

__all__ = ["SaliencyRig"]


@dataclass(kw_only=True)
class SaliencyRig(Pruner):
    """A method whose saliency can be read elsewhere than at the layer of the features.

    Args:
        saliency: "attention": of CLS, without CLS the attention received. "received": the mean
            attention a patch receives, with CLS or without. "distinctness": 1 - mean cosine of a
            visual token with the others; no attention at all.
        heads: of "received": "mean", or "max", the strongest for each query.
        depth: of the layer, 0 (the first) to 1 (the last). None: that of the features.
    """

    saliency: Literal["attention", "received", "distinctness"] = "attention"
    heads: Literal["mean", "max"] = "mean"
    depth: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("saliency", self.saliency, "attention", "received", "distinctness")
        one_of("heads", self.heads, "mean", "max")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(
                f"depth={self.depth} is not a depth of the tower: "
                "pass 0 (the first layer) to 1 (the last)"
            )

    @property
    def signals(self) -> frozenset[Signal]:  # type: ignore[override]
        """Name what is asked of the tower: one signal, or nothing."""
        if self.saliency == "distinctness":
            return frozenset()
        return frozenset({Signal(self.saliency, self.depth, self.heads)})

    def observed(self, tokens: VisualTokens) -> Tensor:
        """Return the saliency (I, N) that the options name."""
        if self.saliency != "distinctness":
            (signal,) = self.signals
            return tokens.signals[signal]

        # no attention: every visual token beside the others of its image
        distances = []
        for features, count in zip(tokens.features, tokens.counts, strict=True):
            distances.append(mean_cosine_distance(features[:count]))  # (N,)
        return pad_sequence(distances, batch_first=True)  # (I, N)

    def evidence(self, tokens: VisualTokens) -> Evidence:
        """Return the saliency that the options name, and whether it is no attention."""
        return Evidence(saliency=self.observed(tokens), attention=self.saliency != "distinctness")
