"""Rules that give each question a budget of its own, from what is known before anything is read."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

__all__ = ["LEAST", "MOST", "RULES", "Seen", "budgets", "calibrated"]

LEAST = 6
MOST = 144
"""Tokens, of 720, between which accuracy is measured."""
SHARES = ("captured", "rank")
"""Rules whose number is a share."""
ALL = re.compile(r"how many|number|read|written|write|word|text|says?\b", re.IGNORECASE)
"""Questions that ask for everything, or to read."""


@dataclass(frozen=True)
class Seen:
    """What the rules look at of a question about an image.

    Attributes:
        question: its text.
        saliency, relevance: (N,) a_v and a_t of AdaFV.
        energy: (R,) squared singular values of the features, the largest first.
    """

    question: str
    saliency: NDArray[np.float64]
    relevance: NDArray[np.float64]
    energy: NDArray[np.float64]


def captured(seen: Seen, share: float) -> float:
    """Return the K of which one half captures a share of either list's mass, on the mean."""
    both = np.sort(seen.saliency)[::-1].cumsum() / seen.saliency.sum()
    both = both + np.sort(seen.relevance)[::-1].cumsum() / seen.relevance.sum()
    return 2.0 * (np.searchsorted(both / 2, share) + 1)


def spread(seen: Seen, scale: float) -> float:
    """Return a multiple of how many tokens saliency is spread over: exp of its entropy."""
    share = seen.saliency / seen.saliency.sum()
    share = share[share > 0]
    return scale * float(np.exp(-(share * np.log(share)).sum()))


def asked(seen: Seen, scale: float) -> float:
    """Return one budget, and twice as many where the text asks how many, or to read."""
    return 720 * scale * (2 if ALL.search(seen.question) else 1)


def spread_and_asked(seen: Seen, scale: float) -> float:
    """Return what both of these say."""
    return spread(seen, scale) * (2 if ALL.search(seen.question) else 1)


def rank(seen: Seen, share: float) -> float:
    """Return the rank that holds a share of the features' energy (E-AdaPrune, arXiv 2603.05950)."""
    held = seen.energy.cumsum() / seen.energy.sum()
    return float(np.searchsorted(held, share) + 1)


def above(seen: Seen, rareness: float) -> float:
    """Return how many tokens have more than a multiple of the mean in either list.

    After OccamToken (arXiv 2605.29657), whose reference is a register, which this tower lacks.
    """
    # a larger argument is a lower bar, so that every rule rises with its number
    bar = 1 / max(rareness, 1e-9)
    high = seen.saliency > bar * seen.saliency.mean()
    return float((high | (seen.relevance > bar * seen.relevance.mean())).sum())


RULES: dict[str, tuple[str, Callable[[Seen, float], float]]] = {
    "captured": ("how much of both of AdaFV's lists an equal split captures", captured),
    "spread": ("how evenly saliency is spread (exp of its entropy)", spread),
    "asked": ("twice as many where the text asks how many, or to read", asked),
    "both": ("both of these", spread_and_asked),
    "rank": ("the rank that holds a share of the features' energy (E-AdaPrune)", rank),
    "above": ("how many tokens have more than a reference in either list (OccamToken)", above),
}
"""By name: what it goes by, and the budget that it gives with its one number."""


def budgets(rule: str, questions: list[Seen], number: float) -> NDArray[np.float64]:
    """Return the tokens (Q,) that a rule gives each question, within what was measured."""
    _, give = RULES[rule]
    given = [give(seen, number) for seen in questions]
    return np.clip(np.rint(given), LEAST, MOST)


def calibrated(rule: str, questions: list[Seen], target: float) -> float:
    """Return the number with which a rule keeps `target` tokens on the mean."""

    def more(logarithm: float) -> float:
        return float(budgets(rule, questions, np.exp(logarithm)).mean()) - target

    # shares end at 1, the other numbers are below a few
    return float(np.exp(brentq(more, np.log(1e-4), np.log(1 if rule in SHARES else 50), xtol=1e-4)))
