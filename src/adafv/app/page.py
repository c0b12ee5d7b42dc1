"""Answer what visitors do, in plain functions: what is on the page goes in, changes come out."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from adafv.app import cards
from adafv.app.session import Playground, bundled
from adafv.models.images import first_frame
from adafv.models.vocabulary import unknown_words, unknown_words_notice

__all__ = ["EMBEDDED", "NOTHING", "Choices", "Page", "Reply"]

NOTHING = "nothing"
"""The second method, where only one is wanted."""
EMBEDDED = "embedded"
"""The name of the model in the package."""


class Choices(NamedTuple):
    """The choices on the page besides the image.

    Attributes:
        question: as the visitor writes it.
        first, second: methods.
        budget: percent of the visual tokens, as the field holds it: any number, or None where it
            is empty.
        layer: a name in `cards.LAYERS`.
    """

    question: str
    first: str
    second: str
    budget: float | None
    layer: str


@dataclass(frozen=True)
class Reply:
    """The parts of the page that change; None leaves a part as it is.

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
    """The page of a playground, on which whatever is wrong becomes a sentence."""

    def __init__(self, playground: Playground) -> None:
        self.playground = playground

    def look(self, visitor: str, source: str, choices: Choices) -> Reply:
        """Ask about the image that is there."""
        # twice the same method is one card; an empty field holds None
        names: list[str] = []
        for name in (choices.first, choices.second):
            if name not in (NOTHING, None, *names):
                names.append(name)
        try:
            share = _share(choices.budget)
            view = self.playground.look(visitor, source, choices.question, names, share)
        except ValueError as error:
            return Reply(_notice(error, source))
        drawn = cards.cards(view, cards.LAYERS[choices.layer])
        return Reply(self._unknown(view.question), drawn)

    def suggest(self, visitor: str, source: str, choices: Choices) -> Reply:
        """Ask a question that the page proposed."""
        reply = self.look(visitor, source, choices)
        return Reply(reply.notice, reply.cards, question=choices.question)

    def take_file(self, visitor: str, path: str, choices: Choices) -> Reply:
        """Take an image from a file; the question of the one before is not asked of it."""
        try:
            # opened now, so that a broken file is said now
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
        sample = bundled(number)
        source = str(number)
        questions = [question.text for question in sample.questions]
        # asked at once, for its question is known
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
        """Return a notice of words that the embedded model doesn't know, or nothing."""
        # other models spell out what they don't know
        if self.playground.name != EMBEDDED:
            return ""
        processor = self.playground.processor
        unknown = unknown_words(processor, question)
        if not unknown:
            return ""
        return cards.notice(_sentence(unknown_words_notice(processor, unknown)))


def _share(percent: float | None) -> float:
    """Return the share of the visual tokens that a field in percent holds."""
    if not isinstance(percent, int | float) or not 0 < percent <= 100:
        # an empty field is not 0 %
        said = "nothing" if percent is None else f"{percent} %"
        raise ValueError(f"{said} is no share of the visual tokens: pass a number from 1 to 100")
    return percent / 100


def _sentence(text: str) -> str:
    """Return an error, which begins like the rest of a line, as a sentence of its own."""
    return text[:1].upper() + text[1:]


def _notice(error: ValueError, source: str) -> str:
    """Return an error as a notice, with the name that the visitor gave the file."""
    # the path leads into a temporary folder, which is nobody's business
    name = Path(source).name
    # the path may stand anywhere in the sentence
    text = str(error).replace(source, name)
    return cards.notice(text if text.startswith(name) else _sentence(text))
