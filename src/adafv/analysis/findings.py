"""What is found out of one question, and the names of the signals that it holds."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from adafv.analysis.first_hit import FirstHit
from adafv.analysis.statistics import Array, area_under_curve, profile
from adafv.core.signals import Signal
from adafv.utils.checks import checked

__all__ = [
    "CHANCE",
    "CONTENT",
    "COSINE",
    "DISTINCT",
    "MUTUAL",
    "RECEIVED",
    "RELEVANCE",
    "TOWER",
    "TRUTH",
    "Finding",
    "Findings",
    "find",
]

COSINE = "T2I similarity"
RELEVANCE = "T2I attention"
TOWER = "saliency"
CHANCE = "random"
CONTENT = ", content words"
"""Ends the name of a signal that reads content words alone.

They are what `adafv.models.boilerplate.boilerplate` leaves.
"""
MUTUAL = "tokens to each other"
DISTINCT = "distinctness"
RECEIVED = {
    "received, first layer": Signal("received", 0.0),
    "received, middle layer": Signal("received", 0.5),
    "received, features' layer": Signal("received"),
}
"""These stand for saliency in a tower without CLS; `DISTINCT`, where no attention is observable."""
TRUTH = "related tokens"


@dataclass(frozen=True)
class Finding:
    """The evidence of one question. Dicts are by name of the signal, `first_hit` by method.

    Attributes:
        suite, image: what was asked about.
        visual_tokens, related_tokens: N, and how many of them the question is about.
        thumbnail: where it begins and ends among the N tokens, 0 to 1; both 0 without one.
        auc: of telling related tokens from the others.
        position, centre: see `profile`; `TRUTH` stands for the related tokens themselves.
        similarity: the cosines of the related tokens, and those of the others.
        first_hit: tokens to keep until one is related.
    """

    suite: str
    image: str
    visual_tokens: int
    related_tokens: int
    thumbnail: tuple[float, float]
    auc: dict[str, float]
    position: dict[str, Array]  # (BINS,) each
    centre: dict[str, float]
    similarity: tuple[Array, Array]
    first_hit: dict[str, FirstHit]


@dataclass(frozen=True)
class Findings:
    """All findings, and for each suite how many questions were left out, by reason."""

    questions: list[Finding] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)


@checked
def find(
    suite: str,
    image: str,
    crop: Array,
    related: Array,
    scores: dict[str, Array],
    hits: dict[str, FirstHit],
) -> Finding:
    """Reduce the scores (N,) of a question to what the figures show."""
    position = {}
    centre = {}
    for name, score in scores.items():
        # cosines may be negative, and attention in the tower is shown by AUC alone
        if not name.startswith((COSINE, "received")):
            position[name], centre[name] = profile(score)
    position[TRUTH], centre[TRUTH] = profile(related)

    auc = {}
    for name, score in scores.items():
        auc[name] = area_under_curve(related, score)
    return Finding(
        suite=suite,
        image=image,
        visual_tokens=len(related),
        related_tokens=int(related.sum()),
        thumbnail=_thumbnail(crop),
        auc=auc,
        position=position,
        centre=centre,
        similarity=(scores[COSINE][related], scores[COSINE][~related]),
        first_hit=hits,
    )


def _thumbnail(crop: Array) -> tuple[float, float]:
    """Return where the thumbnail begins and ends among tokens of these crops (N,), 0 to 1.

    Crop 0 is the thumbnail wherever it comes: first in LLaVA, last in InternVL. Alone it is all
    there is, and not all models have one.
    """
    tokens = np.flatnonzero(crop == 0)
    if not crop.max() or not len(tokens):
        return 0.0, 0.0
    return float(tokens[0] / len(crop)), float((tokens[-1] + 1) / len(crop))
