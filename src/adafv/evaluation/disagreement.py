"""Questions on which methods part ways, found by a rule; `docs/gallery.ipynb` shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adafv.data.sample import Question, Sample
from adafv.data.scenes import draw
from adafv.utils.checks import checked

__all__ = ["Disagreement", "disagreements"]


@dataclass(frozen=True)
class Disagreement:
    """A question that the model answers right from all tokens, and methods differ about.

    Attributes:
        suite, id, question: the suite, its image, and which question about it.
        number: of the question in its suite, from 0.
        type: of the question.
        truth: the right answer.
        answers: by method.
    """

    suite: str
    id: str
    question: int
    number: int
    type: str
    truth: str
    answers: dict[str, str]

    @property
    def right(self) -> list[str]:
        """The methods whose answer is right."""
        return [
            m for m, answer in self.answers.items() if answer.casefold() == self.truth.casefold()
        ]

    @property
    def divided(self) -> int:
        """How many methods disagree with the majority about being right; half of them at most."""
        return min(len(self.right), len(self.answers) - len(self.right))

    def load(self) -> tuple[Sample, Question]:
        """The image, and what is asked about it."""
        suite, split, seed = self.id.split("/")
        sample = draw(int(seed), split=split, suite=suite)
        return sample, sample.questions[self.question]


@checked
def disagreements(records: Sequence[dict[str, Any]], count: int) -> list[Disagreement]:
    """The questions on which methods are divided most, one of each type.

    Of the questions that are answered right from all tokens, those on which most methods disagree
    about being right come first; ties go to the lower number in its suite, then to the suite that
    comes first.

    Args:
        records: of an `Evaluation` of drawn suites, in its order; each method at one budget.
        count: how many questions; fewer where fewer types of question divide the methods.
    """
    asked: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for record in records:
        asked.setdefault((record["suite"], record["id"], record["question"]), {})[
            record["method"]
        ] = record
    numbers: dict[str, int] = {}
    found = []
    for (suite, image, question), by_method in asked.items():
        number = numbers[suite] = numbers.get(suite, -1) + 1
        dense = by_method["none"]
        if dense["correct"]:
            answers = {m: r["answer"] for m, r in by_method.items() if 0 < r["keep"] < 1}
            found.append(
                Disagreement(suite, image, question, number, dense["type"], dense["truth"], answers)
            )
    of_type: dict[str, Disagreement] = {}
    for parting in sorted(found, key=lambda p: (-p.divided, p.number)):
        if parting.divided:
            of_type.setdefault(parting.type, parting)
    return list(of_type.values())[:count]
