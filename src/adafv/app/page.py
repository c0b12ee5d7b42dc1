"""What happens when the page is touched, as plain functions: what is on it goes in, what changes comes out."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from adafv.app import cards
from adafv.app.desk import Playground, bundled

__all__ = ["NOTHING", "Choices", "Page", "Reply"]

NOTHING = "nothing"
"""The second method, where there is none."""


class Choices(NamedTuple):
    """What is chosen beside the picture: a question, two methods, percent of the tokens, a name in `cards.LAYERS`."""

    question: str
    first: str
    second: str
    budget: float
    layer: str


@dataclass(frozen=True)
class Reply:
    """What changes on the page; None leaves a part as it is.

    Attributes:
        notice: what is wrong, or empty.
        cards, picture: HTML.
        source: where the picture comes from.
        question: what the question's field holds.
        suggested: questions to try.
    """

    notice: str = ""
    cards: str | None = None
    picture: str | None = None
    source: str | None = None
    question: str | None = None
    suggested: list[str] | None = None


class Page:
    """The page of a playground. Whatever is wrong becomes a sentence, and the rest stays as it was."""

    def __init__(self, playground: Playground) -> None:
        self.playground = playground

    def look(self, visitor: str, source: str, choices: Choices) -> Reply:
        """Ask about the picture that is there."""
        names = [name for name in dict.fromkeys((choices.first, choices.second)) if name != NOTHING]
        try:
            sight = self.playground.look(visitor, source, choices.question, names, choices.budget / 100)
        except ValueError as error:
            return Reply(_notice(error, source))
        return Reply(cards=cards.cards(sight, cards.LAYERS[choices.layer]))

    def suggest(self, visitor: str, source: str, choices: Choices) -> Reply:
        """Ask a question that the page proposed."""
        reply = self.look(visitor, source, choices)
        return Reply(reply.notice, reply.cards, question=choices.question)

    def take_file(self, visitor: str, path: str, choices: Choices) -> Reply:
        """Take a picture from a file, and ask about it if there is a question."""
        try:
            image = self.playground.picture(visitor, path)
        except ValueError as error:
            return Reply(_notice(error, path))
        reply = self.look(visitor, path, choices) if choices.question.strip() else Reply()
        return Reply(
            notice=reply.notice,
            cards=reply.cards or cards.waiting(image),
            picture=cards.picture(image),
            source=path,
            suggested=[],
        )

    def take_bundled(self, visitor: str, number: int, choices: Choices) -> Reply:
        """Take a bundled picture with its first question."""
        sample, source = bundled(number), str(number)
        questions = [question.text for question in sample.questions]
        reply = self.look(visitor, source, choices._replace(question=questions[0]))
        return Reply(
            notice=reply.notice,
            cards=reply.cards or cards.waiting(sample.image),
            picture=cards.picture(sample.image),
            source=source,
            question=questions[0],
            suggested=questions,
        )


def _notice(error: ValueError, source: str) -> str:
    """The sentence, with the name that the visitor gave the file."""
    name = Path(source).name
    text = str(error).replace(source, name)
    return cards.notice(text if text.startswith(name) else text[:1].upper() + text[1:])
