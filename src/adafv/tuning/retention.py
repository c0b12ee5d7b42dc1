"""How much of the dense model is left, with an interval that a small sample does not shrink."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adafv.evaluation.report import Z, wilson

__all__ = ["INTERVAL", "Retention", "pictures_needed", "retention"]

INTERVAL = "95 %, MOVER of Wilson's intervals of what is lost and what is gained, over pictures"


@dataclass(frozen=True)
class Retention:
    """Right answers of a pruned model over those of the dense one, and its 95 % interval.

    `pictures` are those on which the dense model answers anything rightly: they carry the comparison.
    """

    value: float
    low: float
    high: float
    pictures: int


def retention(pictures: Iterable[Sequence[tuple[bool, bool]]]) -> Retention | None:
    """What a pruned model retains of the dense one, question by question.

    Of D questions that the dense model answers rightly the pruned one answers a share s rightly too, of the W others a
    share g: retention is s + g · W / D. Each share has Wilson's interval over pictures, see
    `adafv.evaluation.report.wilson`, and the two are put together by MOVER: G. Y. Zou & A. Donner, "Construction of
    confidence intervals about effect measures: a general approach", Stat. Med. 2008. Where the dense model's answers
    are the truth, W is 0 and this is Wilson's interval of the agreement.

    Not the bootstrap of `adafv.evaluation.paired`: where no answer differs that is a point, on five questions as on
    five thousand. Nor may several questions on one picture prove more than nothing lost on each: the lower end is at
    most what it would be if every picture counted once and all were right.

    Args:
        pictures: for each picture, for each question on it, whether the dense and the pruned model are right.

    Returns:
        None where the dense model is never right.
    """
    pictures = list(pictures)
    stayed = [own for picture in pictures if (own := [pruned for dense, pruned in picture if dense])]
    gained = [own for picture in pictures if (own := [pruned for dense, pruned in picture if not dense])]
    if not stayed:
        return None
    weight = sum(map(len, gained)) / sum(map(len, stayed))
    share, low, high = _share(stayed)
    more, least, most = _share(gained) if gained else (0.0, 0.0, 0.0)
    value = share + weight * more
    return Retention(
        value=value,
        low=value - math.hypot(share - low, weight * (more - least)),
        high=value + math.hypot(high - share, weight * (most - more)),
        pictures=len(stayed),
    )


def pictures_needed(at_least: float, share: float = 1.0) -> int:
    """Of how many pictures a share must be right so that its interval lies above `at_least` (Wilson, solved for n).

    Args:
        share: above `at_least`, up to 1.
    """
    return math.ceil(Z**2 * at_least * (1 - at_least) / (share - at_least) ** 2 - 1e-9)


def _share(pictures: Sequence[Sequence[bool]]) -> tuple[float, float, float]:
    low, high = wilson(pictures)
    count = len(pictures)
    return sum(map(sum, pictures)) / sum(map(len, pictures)), min(low, count / (count + Z**2)), high
