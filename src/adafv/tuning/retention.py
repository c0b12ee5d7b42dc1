"""How much of the dense model is left, with an interval that a small sample does not shrink."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adafv.utils.checks import checked
from adafv.utils.stats import MIN_CHANGED, Z, cluster_variance, score_interval

__all__ = ["INTERVAL", "Answers", "Effects", "Retention", "effects_of", "needed", "retention"]

INTERVAL = (
    "95 %, MOVER of Wilson's intervals of what is lost and what is gained, with n divided by the "
    "design effect of several questions on one image, over all methods and budgets"
)
Answers = Sequence[Sequence[tuple[bool, bool]]]
"""For each image, for each question on it, whether the dense and the pruned model are right."""
Shares = list[list[bool]]


@dataclass(frozen=True)
class Effects:
    """The number of answers that tell as much as one: Kish's design effect.

    Those on the same image go wrong together. `lost` is that of answers which the dense model gives
    rightly, `gained` of the others; None: too few have changed to know, and all answers on an image
    count as one.
    """

    lost: float | None = None  # None: unknown
    gained: float | None = None


@dataclass(frozen=True)
class Retention:
    """Right answers of a pruned model over those of the dense one, and its 95 % interval.

    `effective` is the number of the dense model's right answers over their design effect: what the
    comparison rests on.
    """

    value: float  # may exceed 1
    low: float
    high: float
    effective: float


@checked
def effects_of(samples: Iterable[Answers]) -> Effects:
    """Return the design effects of the same questions, from several methods and budgets together.

    One that loses little shows no effect of its own, so that a lone loss would count for more than
    none.
    """
    # where the dense model is right, and where it isn't
    both = []
    others = []
    for answers in samples:
        both.append(_of(answers, dense=True))
        others.append(_of(answers, dense=False))
    return Effects(lost=_effect(both, lost=True), gained=_effect(others, lost=False))


@checked
def retention(answers: Answers, effects: Effects = Effects()) -> Retention | None:
    """Return what a pruned model retains of the dense one, question by question.

    Of D questions that the dense model answers rightly the pruned one answers a share s rightly
    too, of the W others a share g: retention is s + g · W / D. Each share has Wilson's interval, on
    the effective number of answers as in `adafv.utils.stats.wilson`, and the two are put
    together by MOVER: G. Y. Zou & A. Donner, "Construction of confidence intervals about effect
    measures: a general approach", Stat. Med. 2008. Where the dense model's answers are the truth, W
    is 0 and this is Wilson's interval of the agreement.

    Not the interval of `adafv.evaluation.paired`: where no answer differs that is a point, on fifty
    images as on five thousand.

    Returns:
        None where the dense model is never right.
    """
    dense_right = _of(answers, dense=True)
    dense_wrong = _of(answers, dense=False)
    if not dense_right:
        return None

    # s: of what the dense model answers rightly
    share = _share(dense_right)
    effective = _effective(dense_right, effects.lost)
    low, high = score_interval(share, effective)

    # g: of the others, in proportion W / D
    weight = sum(map(len, dense_wrong)) / sum(map(len, dense_right))
    more = 0.0
    least = 0.0
    most = 0.0
    if dense_wrong:
        more = _share(dense_wrong)
        least, most = score_interval(more, _effective(dense_wrong, effects.gained))

    # MOVER: the distances to the ends add up like those of independent variables
    value = share + weight * more
    return Retention(
        value=value,
        low=value - math.hypot(share - low, weight * (more - least)),
        high=value + math.hypot(high - share, weight * (most - more)),
        effective=effective,
    )


@checked
def needed(at_least: float, share: float = 1.0) -> int:
    """Return how many answers it takes for the interval of a share to lie above `at_least`.

    That is Wilson's, solved for n.

    Args:
        at_least: what is to be shown.
        share: above `at_least`, up to 1.
    """
    return math.ceil(Z**2 * at_least * (1 - at_least) / (share - at_least) ** 2 - 1e-9)


def _of(answers: Answers, *, dense: bool) -> Shares:
    """Return, by image, if the pruned model is right where the dense one is, or where it isn't."""
    found = []
    for image in answers:
        own = [pruned for right, pruned in image if right == dense]
        # an image without such a question is no cluster
        if own:
            found.append(own)
    return found


def _share(images: Shares) -> float:
    return sum(map(sum, images)) / sum(map(len, images))


def _effective(images: Shares, effect: float | None) -> float:
    """Return how many independent answers would tell as much as these."""
    # unknown: the worst that can be, answers on an image all go the same way
    if effect is None:
        return len(images)
    return sum(map(len, images)) / effect


def _effect(samples: list[Shares], lost: bool) -> float | None:
    """Return the variance of a share over that of as many independent answers.

    Both are summed over the samples. None: too few answers have changed to know.
    """
    changed = 0
    observed = 0.0
    independent = 0.0
    for images in samples:
        # one image says nothing of how images differ
        if len(images) < 2:
            continue
        sizes = np.array(list(map(len, images)), float)  # (I,)
        right = np.array(list(map(sum, images)), float)  # (I,)
        n = sizes.sum()
        share = right.sum() / n
        changed += int(n - right.sum() if lost else right.sum())
        observed += cluster_variance(right, sizes)
        independent += share * (1 - share) / n

    # with few changes the observed variance is luck
    if changed < MIN_CHANGED or not independent:
        return None
    return max(1.0, observed / independent)
