"""Bound what a request may cost: while tokens are chosen, every other request waits."""

from collections.abc import Sequence
from math import fsum

from adafv.core.pruner import Pruner

__all__ = ["check_cost", "check_costs", "check_length", "cost_of"]

# K · N, summed over a request's images, of a method that picks token after token: a second or two
# on a CPU, or on a GPU of launching kernels.
MOST_STEPS = 250_000

# N of an image for a method that factorises a matrix of all tokens: as long, and 128 MiB for each
# such matrix. N³ is summed over a request's images.
MOST_FACTORISED = 4096

# M · N of an image for a method that looks at words: 128 MiB for each matrix of their cosines.
MOST_COMPARED = 2**25


def check_length(pruner: Pruner, words: int, count: int) -> None:
    """Raise a `ValueError` if a question of so many tokens is too long for `count` visual ones.

    Each token of the question is compared with each of the image, in memory that vLLM has not
    measured.
    """
    if pruner.needs_text and words * count > MOST_COMPARED:
        raise ValueError(
            f"a question of {words:,} tokens is too long to be compared with {count:,} visual "
            f"tokens: ask in at most {MOST_COMPARED // count:,}, or pass a method that looks at no "
            "words, e.g. fastervlm"
        )


def check_cost(pruner: Pruner, count: int) -> None:
    """Raise a `ValueError` if choosing among `count` tokens would hold up other requests.

    A method that picks token after token takes K steps over N tokens; one that factorises a matrix
    of all tokens takes N³.
    """
    if pruner.cubic and count > MOST_FACTORISED:
        raise ValueError(
            f"{pruner.name} factorises a matrix of {count} visual tokens, which would hold up "
            f"other requests: pass an image or video of at most {MOST_FACTORISED}, or another "
            "method"
        )
    kept = pruner.budget(count)
    if pruner.stepwise and kept * count > MOST_STEPS:
        raise ValueError(
            f"{pruner.name} takes {kept} steps over {count} visual tokens, which would hold up "
            f"other requests: pass at most adafv_tokens={MOST_STEPS // count}, or another "
            "method"
        )


def cost_of(pruner: Pruner, count: int) -> float:
    """Return how much choosing among `count` tokens takes of what a request may: at most 1."""
    steps = pruner.budget(count) * count / MOST_STEPS if pruner.stepwise else 0.0
    factorised = (count / MOST_FACTORISED) ** 3 if pruner.cubic else 0.0
    return max(steps, factorised)


def check_costs(costs: Sequence[float]) -> None:
    """Raise a `ValueError` if all images of a request together would hold up other requests.

    Args:
        costs: of those of which tokens are chosen, as `cost_of` has them.
    """
    times = round(fsum(costs), 9)
    if times > 1:
        raise ValueError(
            f"choosing tokens of {len(costs)} images takes {times:.3g} times as long as a request "
            f"may hold up others: send at most {int(len(costs) / times)} of this size, pass a "
            "smaller budget, or another "
            "method"
        )
