"""Answer what visitors do, in plain functions: what is on the page goes in, changes come out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from adafv import embedded
from adafv.app import cards, drawing, panels
from adafv.app.exports import json_file, png_file
from adafv.app.playground import SHARES, Playground
from adafv.app.view import View
from adafv.core.config import DEFAULT_METHOD
from adafv.data.cases import EXPLAINED
from adafv.models.images import first_frame, tiny_image
from adafv.models.vocabulary import photograph_notice, unknown_words_notice
from adafv.utils.checks import checked

__all__ = ["BUDGET", "FIRST", "NOTHING", "SECOND", "Choices", "Page", "Reply"]

NOTHING = "nothing"
"""The second method, where only one is wanted."""
# What is chosen when the page opens: two methods, and percent of the visual tokens.
FIRST = DEFAULT_METHOD
SECOND = "random"
BUDGET = 5
SLEPT = "this page has slept and no longer knows its image: reload it, or choose an image"


class Choices(NamedTuple):
    """The choices on the page besides the image; a program may have sent anything.

    Attributes:
        question: as the visitor writes it.
        first, second: methods.
        budget: percent of the visual tokens, as the field holds it: any number, or None where it
            is empty; of a link, the text that is no number.
        layer: a name in `cards.LAYERS`.
    """

    question: str
    first: str
    second: str
    budget: float | str | None
    layer: str


@dataclass(frozen=True)
class Reply:
    """The parts of the page that change; None leaves a part as it is.

    Attributes:
        notice: what is wrong, or empty.
        cards, words, budgets, image: HTML.
        source: where the image comes from.
        question, first, second, budget, layer: what the fields hold.
        suggested: questions to try.
    """

    notice: str = ""
    cards: str | None = None
    words: str | None = None
    budgets: str | None = None
    image: str | None = None
    source: str | None = None
    question: str | None = None
    first: str | None = None
    second: str | None = None
    budget: float | None = None
    layer: str | None = None
    suggested: list[str] | None = None


@checked
class Page:
    """The page of a playground, on which whatever is wrong becomes a sentence."""

    def __init__(self, playground: Playground) -> None:
        self.playground = playground
        self.samples = playground.samples

    def arrive(self, visitor: str, link: Mapping[str, str], layer: str) -> Reply:
        """Open the page: with what a link holds, else with the first bundled image.

        Args:
            link: image, question, method, beside, budget and layer, each of which may be missing.
            layer: a name in `cards.LAYERS`, for a link without one.
        """
        number = self._number(link.get("image", str(EXPLAINED)))
        if number is None:
            reply = self.arrive(visitor, {}, layer)
            return replace(
                reply,
                notice=cards.notice(
                    f"The link leads to no bundled image: image={link['image']!r} is none of "
                    f"0 to {len(self.samples) - 1}"
                ),
            )
        choices = Choices(
            question=link.get("question", self.samples[number].questions[0].text),
            first=link.get("method", FIRST),
            second=link.get("beside", SECOND),
            budget=_percent(link.get("budget", str(BUDGET))),
            layer=link.get("layer", layer),
        )
        return replace(
            self._take(visitor, number, choices),
            first=choices.first,
            second=choices.second,
            # what these two cannot hold leaves them as they are
            budget=None if isinstance(choices.budget, str) else choices.budget,
            layer=choices.layer if choices.layer in cards.LAYERS else None,
        )

    def look(self, visitor: str, source: str, choices: Choices) -> Reply:
        """Draw the answers anew, with another budget or another layer.

        Here and below, an empty source is that of a page whose image is forgotten.
        """
        before = self.playground.last_question(visitor, source)
        try:
            view = self._view(visitor, source, choices)
        except ValueError as error:
            return Reply(_notice(error, source))
        reply = self._drawn(view, choices)
        if view.question == before:
            return reply
        # the field held a question that was not asked yet: of the one before there is no curve
        return replace(reply, words=panels.words(view), budgets="", question=choices.question)

    def ask(self, visitor: str, source: str, choices: Choices) -> Reply:
        """Ask about the image that is there, another question or other methods."""
        try:
            view = self._view(visitor, source, choices)
        except ValueError as error:
            return Reply(_notice(error, source))
        reply = self._drawn(view, choices)
        return replace(reply, words=panels.words(view), budgets=panels.asking())

    def suggest(self, visitor: str, source: str, choices: Choices) -> Reply:
        """Ask a question that the page proposed."""
        return replace(self.ask(visitor, source, choices), question=choices.question)

    def budgets(self, visitor: str) -> str | None:
        """Return the answers at other budgets; empty where there is none to compare.

        They are about what was asked last, whatever the fields hold by now. None, if something else
        was asked meanwhile: its own answers follow.
        """
        try:
            views = self.playground.budgets(visitor)
        except ValueError:
            # a method may refuse one of the budgets
            return ""
        return None if views is None else panels.budgets(SHARES, views)

    def take_file(self, visitor: str, path: str) -> Reply:
        """Take an image from a file; the question of the one before is not asked of it."""
        try:
            # opened now, so that a broken file is said now
            image = self.playground.image(visitor, path)
        except ValueError as error:
            return Reply(_notice(error, path))
        name = Path(path).name
        notes = filter(None, (first_frame(image, name), tiny_image(image, name)))
        return Reply(
            notice=cards.notice("; ".join(notes)),
            cards=cards.waiting(image),
            words="",
            budgets="",
            image=drawing.image(image),
            source=path,
            question="",
            suggested=[],
        )

    def take_bundled(self, visitor: str, number: int | None, choices: Choices) -> Reply:
        """Take a bundled image with its first question."""
        if number is None or self._number(str(number)) is None:
            return Reply(cards.notice(f"There is no bundled image {number!r}"))
        question = self.samples[number].questions[0].text
        return self._take(visitor, number, choices._replace(question=question))

    def export(self, visitor: str, source: str, choices: Choices, kind: str) -> tuple[str, str]:
        """Return what is on the page, for others to see, or a link that leads to it.

        Args:
            kind: "link", "png" or "json".

        Returns:
            What is wrong, or empty; the query of a link, or the file as a data URL, or empty.
        """
        try:
            if kind == "link":
                return "", _link(source, choices)
            # a file holds what the page shows
            asked = self.playground.last_question(visitor, source)
            if asked is not None and asked != str(choices.question).strip():
                raise ValueError("the question in its field was not asked yet: ask it, then save")
            view = self._view(visitor, source, choices)
            return "", png_file(view) if kind == "png" else json_file(view)
        except ValueError as error:
            return _notice(error, source), ""

    def _number(self, text: str) -> int | None:
        """Return the number of a bundled image; None if it is none."""
        return int(text) if text in map(str, range(len(self.samples))) else None

    def _take(self, visitor: str, number: int, choices: Choices) -> Reply:
        """Take a bundled image, and ask at once."""
        sample = self.samples[number]
        source = str(number)
        reply = self.ask(visitor, source, choices)
        return replace(
            reply,
            cards=reply.cards or cards.waiting(sample.image),
            words=reply.words or "",
            budgets=reply.budgets or "",
            image=drawing.image(sample.image),
            source=source,
            question=choices.question,
            suggested=[question.text for question in sample.questions],
        )

    def _view(self, visitor: str, source: str, choices: Choices) -> View:
        """Return the answers, or raise a `ValueError` that says what is wrong."""
        if not source:
            raise ValueError(SLEPT)
        if not isinstance(choices.question, str):
            raise ValueError(f"question={choices.question!r} is no text: write a question")
        # a list, for what is no text has no hash
        if choices.layer not in list(cards.LAYERS):
            raise ValueError(
                f"layer={choices.layer!r} is unknown: choose one of {', '.join(cards.LAYERS)}"
            )
        share = _share(choices.budget)
        return self.playground.look(visitor, source, choices.question, _names(choices), share)

    def _drawn(self, view: View, choices: Choices) -> Reply:
        """Return the answers as cards, with a notice of what the model doesn't know."""
        return Reply(self._beyond(view), cards.cards(view, cards.LAYERS[choices.layer]))

    def _beyond(self, view: View) -> str:
        """Return a notice of what the embedded model doesn't know of a question, or nothing."""
        # other models know photographs, and spell out what they don't know
        if self.playground.name != embedded.NAME:
            return ""
        said = photograph_notice(view.image)
        unknown = self.playground.unknown_words(view.question)
        if unknown and not said:
            said = unknown_words_notice(self.playground.processor, unknown)
        return cards.notice(_sentence(said)) if said else ""


def _names(choices: Choices) -> list[str]:
    """Return the methods that are chosen: twice the same is one card, an empty field holds None."""
    names: list[str] = []
    for name in (choices.first, choices.second):
        if name not in (NOTHING, None, *names):
            names.append(str(name))
    return names


def _link(source: str, choices: Choices) -> str:
    """Return the query that `Page.arrive` reads.

    Raises:
        ValueError: the image is a visitor's own, or forgotten; the budget is no share.
    """
    if not source:
        raise ValueError(SLEPT)
    if not source.isdigit():
        raise ValueError("an image of yours is kept nowhere, so no link leads to it")
    _share(choices.budget)
    query = {
        "image": source,
        "question": choices.question,
        # a field that was emptied holds None
        "method": choices.first or NOTHING,
        "beside": choices.second or NOTHING,
        "budget": choices.budget,
        "layer": choices.layer,
    }
    return f"?{urlencode(query)}"


def _percent(text: str) -> float | str:
    """Return what a link says of the budget, as in 5 or 5%; its text if that is no number."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        return text
    # no larger integers are JSON
    return int(percent) if percent.is_integer() and abs(percent) < 2**53 else percent


def _share(percent: Any) -> float:
    """Return the share of the visual tokens that a field in percent holds."""
    if not isinstance(percent, int | float) or not 0 < percent <= 100:
        # an empty field is not 0 %, and a link may say anything
        said = "nothing" if percent is None else f"{percent} %"
        if isinstance(percent, str):
            said = repr(percent)
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
    return cards.notice(text if name and text.startswith(name) else _sentence(text))
