"""No pruning: the dense model behind the same interface."""

from dataclasses import dataclass

from torch import Tensor

from adafv.core.nested import ScoringPruner
from adafv.core.visual_tokens import VisualTokens

__all__ = ["NoPruning"]


@dataclass(kw_only=True)
class NoPruning(ScoringPruner):
    """Keeps every visual token."""

    keep: float | None = 1.0

    name = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep != 1:
            name = "tokens" if self.keep is None else "keep"
            raise ValueError(
                f"{name}={getattr(self, name)} with method 'none', which keeps every token: "
                f"leave {name} out"
            )

    def score(self, tokens: VisualTokens) -> Tensor:
        """Rank all tokens alike: no token is dropped."""
        return tokens.mask.float()
