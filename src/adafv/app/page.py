"""What happens when the page is touched, as plain functions: what is on it goes in, what changes
comes out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from adafv.app import cards
from adafv.app.session import Playground, bundled
from adafv.models.images import first_frame
from adafv.models.vocabulary import unknown_words, unknown_words_notice

__all__ = ["EMBEDDED", "NOTHING", "Choices", "Page", "Reply"]

NOTHING = "nothing"
"""The second method, where there is none."""
EMBEDDED = "embedded"
"""The name of the model in the package."""


class Choices(NamedTuple):
    """What is chosen beside the image: a question, two methods, percent of the tokens, a name in
    `cards.LAYERS`.

    The percentage is what the field holds: any number, or None where it is empty.
    """

    question: str
    first: str
    second: str
    budget: float | None
    layer: str


@dataclass(frozen=True)
class Reply:
    """What changes on the page; None leaves a part as it is.

    Attributes:
        notice: what is wrong, or empty.
        cards, image: HTML.
        source: where the image comes from.
        question: what the question's field holds.
        suggested: questions to try.
    """

    notice: str = ""
    cards: str | None = None
    image: str | None = None
    source: str | None = None
    question: str | None = None
    suggested: list[str] | None = None


class Page:
    """The page of a playground. Whatever is wrong becomes a sentence, and the rest stays as it was."""

    def __init__(self, playground: Playground) -> None:
        self.playground = playground

    def look(self, visitor: str, source: str, choices: Choices) -> Reply:
        """Ask about the image that is there."""
        names = [
            name
            for name in dict.fromkeys((choices.first, choices.second))
            if name not in (NOTHING, None)
        ]
        try:
            sight = self.playground.look(
                visitor, source, choices.question, names, _share(choices.budget)
            )
        except ValueError as error:
            return Reply(_notice(error, source))
        return Reply(self._unknown(sight.question), cards.cards(sight, cards.LAYERS[choices.layer]))

    def suggest(self, visitor: str, source: str, choices: Choices) -> Reply:
        """Ask a question that the page proposed."""
        reply = self.look(visitor, source, choices)
        return Reply(reply.notice, reply.cards, question=choices.question)

    def take_file(self, visitor: str, path: str, choices: Choices) -> Reply:
        """Take an image from a file; the question of the one before is not asked of it."""
        try:
            image = self.playground.image(visitor, path)
        except ValueError as error:
            return Reply(_notice(error, path))
        return Reply(
            notice=cards.notice(first_frame(image, Path(path).name)),
            cards=cards.waiting(image),
            image=cards.image(image),
            source=path,
            question="",
            suggested=[],
        )

    def take_bundled(self, visitor: str, number: int, choices: Choices) -> Reply:
        """Take a bundled image with its first question."""
        sample, source = bundled(number), str(number)
        questions = [question.text for question in sample.questions]
        reply = self.look(visitor, source, choices._replace(question=questions[0]))
        return Reply(
            notice=reply.notice,
            cards=reply.cards or cards.waiting(sample.image),
            image=cards.image(sample.image),
            source=source,
            question=questions[0],
            suggested=questions,
        )

    def _unknown(self, question: str) -> str:
        """Which words the embedded model doesn't know."""
        processor = self.playground.processor
        unknown = unknown_words(processor, question) if self.playground.name == EMBEDDED else []
        return cards.notice(_sentence(unknown_words_notice(processor, unknown))) if unknown else ""


def _share(percent: float | None) -> float:
    if not isinstance(percent, int | float) or not 0 < percent <= 100:
        said = "nothing" if percent is None else f"{percent} %"
        raise ValueError(f"{said} is no share of the visual tokens: pass a number from 1 to 100")
    return percent / 100


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _notice(error: ValueError, source: str) -> str:
    """The sentence, with the name that the visitor gave the file."""
    name = Path(source).name
    text = str(error).replace(source, name)
    return cards.notice(text if text.startswith(name) else _sentence(text))
