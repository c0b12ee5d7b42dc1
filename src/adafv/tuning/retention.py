"""How much of the dense model is left, with an interval that a small sample does not shrink."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adafv.utils.checks import checked
from adafv.utils.stats import Z, score_interval

__all__ = ["INTERVAL", "Answers", "Effects", "Retention", "effects_of", "needed", "retention"]

INTERVAL = (
    "95 %, MOVER of Wilson's intervals of what is lost and what is gained, with n divided by the design effect of "
    "several questions on one image, over all methods and budgets"
)
FEWEST = 10
"""Answers that have to be lost, or gained, for a design effect to be estimated from them."""
Answers = Sequence[Sequence[tuple[bool, bool]]]
"""For each image, for each question on it, whether the dense and the pruned model are right."""
Shares = list[list[bool]]


@dataclass(frozen=True)
class Effects:
    """How many answers tell as much as one, since those on the same image go wrong together:
    Kish's design effect.

    `lost` is that of answers which the dense model gives rightly, `gained` of the others; None: too
    few have changed to know, and all answers on an image count as one.
    """

    lost: float | None = None
    gained: float | None = None


@dataclass(frozen=True)
class Retention:
    """Right answers of a pruned model over those of the dense one, and its 95 % interval.

    `effective` is the number of the dense model's right answers over their design effect: what the
    comparison rests on.
    """

    value: float
    low: float
    high: float
    effective: float


@checked
def effects_of(samples: Iterable[Answers]) -> Effects:
    """The design effects of the same questions, from the answers under several methods and budgets
    together.

    One that loses little shows no effect of its own, so that a lone loss would count for more than
    none.
    """
    samples = list(samples)
    return Effects(
        _effect([_stayed(s) for s in samples], lost=True),
        _effect([_gained(s) for s in samples], lost=False),
    )


@checked
def retention(answers: Answers, effects: Effects = Effects()) -> Retention | None:
    """What a pruned model retains of the dense one, question by question.

    Of D questions that the dense model answers rightly the pruned one answers a share s rightly
    too, of the W others a share g: retention is s + g · W / D. Each share has Wilson's interval, on
    the effective number of answers as in `adafv.evaluation.report.wilson`, and the two are put
    together by MOVER: G. Y. Zou & A. Donner, "Construction of confidence intervals about effect
    measures: a general approach", Stat. Med. 2008. Where the dense model's answers are the truth, W
    is 0 and this is Wilson's interval of the agreement.

    Not the bootstrap of `adafv.evaluation.paired`: where no answer differs that is a point, on five
    questions as on five thousand.

    Returns:
        None where the dense model is never right.
    """
    stayed, gained = _stayed(answers), _gained(answers)
    if not stayed:
        return None
    weight = sum(map(len, gained)) / sum(map(len, stayed))
    share, effective = _share(stayed), _effective(stayed, effects.lost)
    low, high = score_interval(share, effective)
    more, least, most = 0.0, 0.0, 0.0
    if gained:
        more = _share(gained)
        least, most = score_interval(more, _effective(gained, effects.gained))
    value = share + weight * more
    return Retention(
        value=value,
        low=value - math.hypot(share - low, weight * (more - least)),
        high=value + math.hypot(high - share, weight * (most - more)),
        effective=effective,
    )


@checked
def needed(at_least: float, share: float = 1.0) -> int:
    """Of how many answers a share must be right so that its interval lies above `at_least` (Wilson,
    solved for n).

    Args:
        share: above `at_least`, up to 1.
    """
    return math.ceil(Z**2 * at_least * (1 - at_least) / (share - at_least) ** 2 - 1e-9)


def _stayed(answers: Answers) -> Shares:
    return [own for image in answers if (own := [pruned for dense, pruned in image if dense])]


def _gained(answers: Answers) -> Shares:
    return [own for image in answers if (own := [pruned for dense, pruned in image if not dense])]


def _share(images: Shares) -> float:
    return sum(map(sum, images)) / sum(map(len, images))


def _effective(images: Shares, effect: float | None) -> float:
    return len(images) if effect is None else sum(map(len, images)) / effect


def _effect(samples: list[Shares], lost: bool) -> float | None:
    """Variance over images of a share over that of as many independent answers, both summed over
    the samples.
    """
    changed, observed, independent = 0, 0.0, 0.0
    for images in samples:
        sizes, right = (
            np.array([*map(len, images)], float),
            np.array([*map(sum, images)], float),
        )
        if len(images) < 2:
            continue
        n, share = sizes.sum(), right.sum() / sizes.sum()
        changed += int(n - right.sum() if lost else right.sum())
        observed += len(images) / (len(images) - 1) * ((right - share * sizes) ** 2).sum() / n**2
        independent += share * (1 - share) / n
    return max(1.0, observed / independent) if changed >= FEWEST and independent else None
