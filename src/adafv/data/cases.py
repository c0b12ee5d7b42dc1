"""A few bundled questions, one of each difficulty."""

from dataclasses import dataclass
from itertools import islice

from adafv.data.sample import Question, Sample
from adafv.data.scenes import draw
from adafv.data.suites import load_suite

__all__ = ["CASES", "Case"]

# the one suite here that has images in an order of their own
EASY_VQA = "easy-vqa"


@dataclass(frozen=True)
class Case:
    """A bundled question.

    Attributes:
        suite: a suite of `adafv.evaluation`.
        seed: of the test split; in easy-vqa, which image.
        kind: the type of the question; "" takes the first of any type.
        why: what it shows.
    """

    suite: str
    seed: int
    kind: str
    why: str

    def load(self) -> tuple[Sample, Question]:
        """Return the image and its first question of this kind."""
        if self.suite == EASY_VQA:
            sample = next(islice(load_suite(EASY_VQA), self.seed, None))
        else:
            sample = draw(self.seed, split="test", suite=self.suite)
        for question in sample.questions:
            if self.kind in ("", question.type):
                return sample, question
        raise AssertionError(f"{self} has no such question")


CASES = (
    # a small thing among loud ones
    Case(
        suite="scenes-small",
        seed=0,
        kind="color",
        why="what is asked about is small and dull, the rest is large and loud",
    ),
    # things that the question does not name
    Case(
        suite="scenes",
        seed=2,
        kind="beside",
        why="the answer is a neighbour that the question doesn't name",
    ),
    Case(
        suite="scenes",
        seed=0,
        kind="text",
        why="a word to read, on a card that only its neighbour names",
    ),
    Case(
        suite="scenes",
        seed=4,
        kind="count",
        why="everything matters, named or not",
    ),
    # more than one glance
    Case(
        suite="scenes",
        seed=9,
        kind="two",
        why="two named things, far apart",
    ),
    # not drawn by this package
    Case(
        suite=EASY_VQA,
        seed=0,
        kind="",
        why="from a public test set that nobody here wrote",
    ),
)
"""One of each difficulty, from the first test seeds.

The dense model answers them, and methods differ on them.
"""


EXPLAINED = 0
"""Which of `CASES` the explain page shows."""
