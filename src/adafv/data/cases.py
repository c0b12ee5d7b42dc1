"""A few bundled questions, one of each difficulty."""

from dataclasses import dataclass
from itertools import islice

from adafv.data.sample import Question, Sample
from adafv.data.scenes import draw
from adafv.data.suites import load_suite

__all__ = ["CASES", "Case"]

EASY_VQA = "easy-vqa"


@dataclass(frozen=True)
class Case:
    """A bundled question.

    Attributes:
        suite: a suite of `adafv.evaluation`.
        seed: of the test split; in easy-vqa, which picture.
        kind: the type of the question; "" takes the first of any type.
        why: what it shows.
    """

    suite: str
    seed: int
    kind: str
    why: str

    def load(self) -> tuple[Sample, Question]:
        """The picture and its first question of this kind."""
        if self.suite == EASY_VQA:
            sample = next(islice(load_suite(EASY_VQA), self.seed, None))
        else:
            sample = draw(self.seed, split="test", suite=self.suite)
        return sample, next(
            question for question in sample.questions if self.kind in ("", question.type)
        )


CASES = (
    Case(
        "scenes-small",
        0,
        "color",
        "what is asked about is small and dull, the rest is large and loud",
    ),
    Case("scenes", 2, "beside", "the answer is a neighbour that the question doesn't name"),
    Case("scenes", 0, "text", "a word to read, on a card that only its neighbour names"),
    Case("scenes", 4, "count", "everything matters, named or not"),
    Case("scenes", 9, "two", "two named things, far apart"),
    Case(EASY_VQA, 0, "", "from a public test set that nobody here wrote"),
)
"""One of each difficulty from the first test seeds, which the dense model answers and on which
methods differ.
"""


EXPLAINED = 0
"""Which of `CASES` the explain page shows."""
