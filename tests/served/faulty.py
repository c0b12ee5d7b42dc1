"""A worker of which a method can be told to fail, in whatever process it runs."""

from typing import Any

from adafv.methods import AdaFV

PICK = AdaFV.pick


class Faulty:
    """What vLLM puts beside its worker (`--worker-extension-cls`)."""

    rank: int

    def fail_at(self, kept: int, rank: int | None = None) -> None:
        """Let AdaFV raise where it is to keep so many tokens of an image, on one rank or on all."""

        def pick(method: Any, tokens: Any, budget: Any) -> Any:
            if kept in budget and rank in (None, self.rank):
                raise RuntimeError("out of luck")
            return PICK(method, tokens, budget)

        AdaFV.pick = pick  # type: ignore[method-assign]
