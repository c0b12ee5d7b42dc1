"""An image, what is on it, and what is asked about it."""

import re
import unicodedata
from dataclasses import dataclass

from PIL import Image

from adafv.utils.checks import checked

__all__ = ["BLIND", "Box", "Question", "Sample", "Thing", "normalised", "same_answer"]

BLIND = "blind"
"""The name of the model that sees no image."""

FILLERS = frozenset({"a", "an", "the", "some", "at", "in", "on", "there", "is", "are", "it", "to"})
NUMBERS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}

# what NFKC would join to the digit beside it: "1½" is not "11/2", nor "10²" 102
_NUMERALS = "²³¹¼-¾⁰-⁹₀-₉⅐-⅟↉"
_JOINT = re.compile(rf"(?<=\d)(?=[{_NUMERALS}])|(?<=[{_NUMERALS}])(?=\d)")
# hyphens, an en dash and the minus sign, and the bar of "½"
_ASCII = str.maketrans({**dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"), "\u2044": "/"})
_GROUPS = re.compile(r"(?<![\w.])(?<!\d,)[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)")  # 1,000
_NEGATIVE_SUM = re.compile(r"(?<!\w)-([$€£¥])(?=[\d.])")  # -$5
_DECIMAL = re.compile(r"(-?)(\d*)\.(\d+)([^\d./].*)?")

Box = tuple[int, int, int, int]
"""left, top, right, bottom, in pixels"""


@dataclass(frozen=True)
class Thing:
    """One drawn thing; `text` is what a card bears."""

    name: str  # of an icon, or "card"
    color: str
    box: Box
    text: str | None = None


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
        text, answer: as they are written.
        type: groups questions in a table; "" where they have none.
        boxes: of what must be looked at to answer it.
        also: other answers that are as right.
    """

    text: str
    answer: str
    type: str
    boxes: tuple[Box, ...]
    also: tuple[str, ...] = ()

    def accepts(self, answer: str) -> bool:
        """Return whether an answer is right, see `normalised`."""
        return any(same_answer(answer, right) for right in (self.answer, *self.also))


@dataclass(frozen=True)
class Sample:
    """An image with the questions asked about it.

    Attributes:
        id: unique within a suite.
        image: as it is drawn; of a clip a contact sheet, its frames side by side.
        questions: that are asked.
        things: on the image; empty where nobody knows them (easy-vqa).
        frames: rows and columns of a contact sheet's frames, in reading order; (1, 1): an image.
    """

    id: str
    image: Image.Image
    questions: tuple[Question, ...]
    things: tuple[Thing, ...]
    frames: tuple[int, int] = (1, 1)


@checked
def normalised(answer: str) -> str:
    """Return an answer without what makes it no other.

    In lower case, numbers up to ten as digits, without punctuation and words such as articles; an
    answer of nothing else keeps them. What changes a number or a name is no punctuation: "-5",
    "1.5", "1/2", "C++". Decimals are as short as they can be, without commas between thousands.
    """
    separate = _JOINT.sub(" ", answer)
    plain = unicodedata.normalize("NFKC", separate).casefold().translate(_ASCII)
    american = plain.replace("grey", "gray").replace("colour", "color")
    words = _words(american)
    kept = [NUMBERS.get(word, word) for word in words if word not in FILLERS]
    return " ".join(kept or words) or american.strip()


def _words(text: str) -> list[str]:
    """Return numbers and words; the marks of a script belong to the letter before them."""
    text = _GROUPS.sub(lambda number: number[0].replace(",", ""), text)
    text = _NEGATIVE_SUM.sub(r"\1-", text)
    marks = "".join({char for char in text if unicodedata.category(char).startswith("M")})
    word = rf"[\w{re.escape(marks)}]+(?:\+\+|#)?"
    # a unit may follow at once, as in "-5cm"
    number = rf"(?<!\w)-?(?:\d+(?:[./]\d+)*|(?<!\.)\.\d+)(?:{word})?"
    return [_shortest(found) for found in re.findall(rf"{number}|{word}", text)]


def _shortest(word: str) -> str:
    """Return a decimal with a digit before its point and no zero at its end; other words as is."""
    decimal = _DECIMAL.fullmatch(word)
    if decimal is None:
        return word
    sign, whole, digits, unit = decimal.groups(default="")
    digits = digits.rstrip("0")
    return f"{sign}{whole or 0}{'.' if digits else ''}{digits}{unit}"


@checked
def same_answer(answer: str, truth: str) -> bool:
    """Tell if two answers are the same, see `normalised`."""
    return normalised(answer) == normalised(truth)
