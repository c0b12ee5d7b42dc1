"""Questions on which methods disagree, found by a rule; `docs/gallery.ipynb` shows them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adafv.data.judging import same_answer
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
        found = []
        for method, answer in self.answers.items():
            if same_answer(answer, self.truth):
                found.append(method)
        return found

    @property
    def divided(self) -> int:
        """Count the methods that disagree with the majority, half of them at most."""
        # a question that all fail, or none, says nothing about methods
        return min(len(self.right), len(self.answers) - len(self.right))

    def load(self) -> tuple[Sample, Question]:
        """Draw the image again; return it with what is asked about it."""
        suite, split, seed = self.id.split("/")
        sample = draw(int(seed), split=split, suite=suite)
        return sample, sample.questions[self.question]


@checked
def disagreements(records: Sequence[dict[str, Any]], count: int) -> list[Disagreement]:
    """Return the questions on which methods are divided most, one of each type.

    Of the questions that are answered right from all tokens, those on which most methods disagree
    about being right come first; ties go to the lower number in its suite, then to the suite that
    comes first.

    Args:
        records: of an `Evaluation` of drawn suites, in its order; each method at one budget.
        count: how many questions; fewer where fewer types of question divide the methods.
    """
    # the answers to each question, by method
    asked: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for record in records:
        question = (record["suite"], record["id"], record["question"])
        asked.setdefault(question, {})[record["method"]] = record

    # those that all tokens are enough for; they are numbered suite by suite, the others too
    counts: Counter[str] = Counter()
    found = []
    for (suite, image, index), by_method in asked.items():
        number = counts[suite]
        counts[suite] += 1
        dense = by_method["none"]
        if dense["correct"]:
            answers = {}
            for method, record in by_method.items():
                if 0 < record["keep"] < 1:
                    answers[method] = record["answer"]
            found.append(
                Disagreement(suite, image, index, number, dense["type"], dense["truth"], answers)
            )

    # the most divided one of each type
    found.sort(key=lambda disagreement: (-disagreement.divided, disagreement.number))
    of_type: dict[str, Disagreement] = {}
    for disagreement in found:
        if disagreement.divided:
            of_type.setdefault(disagreement.type, disagreement)
    return list(of_type.values())[:count]
