"""Holm's correction for many comparisons."""

from collections.abc import Sequence


def holm(chances: Sequence[float]) -> list[float]:
    """The p-value of each comparison after Holm's correction for all of them, in their order."""
    corrected = [0.0] * len(chances)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        largest = max(largest, min(1.0, chances[place] * (len(chances) - rank)))
        corrected[place] = largest
    return corrected
