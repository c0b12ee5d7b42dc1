"""The images that the page offers, by the model that is asked."""

from dataclasses import replace
from functools import cache

from adafv import embedded
from adafv.data.cases import CASES
from adafv.data.photographs import photographs
from adafv.data.sample import Sample
from adafv.utils.checks import checked

__all__ = ["bundled"]


@checked
def bundled(model: str) -> tuple[Sample, ...]:
    """Return the images that the page offers for a model, each with questions to try.

    The embedded model knows drawn scenes alone; any other one is shown photographs.
    """
    return _drawn() if model == embedded.NAME else photographs()


@cache
def _drawn() -> tuple[Sample, ...]:
    """Return the images of the demo, each with the demo's question first among its questions."""
    samples = []
    for case in CASES:
        sample, question = case.load()
        # the demo's question is not repeated
        rest = tuple(q for q in sample.questions if q != question)
        samples.append(replace(sample, questions=(question, *rest)))
    return tuple(samples)
