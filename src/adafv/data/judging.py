"""Judge answers: whether what was said is what is right."""

import re
import unicodedata

from adafv.utils.checks import checked

__all__ = ["normalised", "same_answer"]

FILLERS = frozenset({"a", "an", "the", "some", "at", "in", "on", "there", "is", "are", "it", "to"})
_FILLER = rf"(?:{'|'.join(sorted(FILLERS))})"
# before a word that is none, and that no comma or point separates from them
_LEADING = re.compile(rf"\W*(?:{_FILLER}\s+)+(?=\S)(?!{_FILLER}(?![\w+-]))", re.IGNORECASE)
# before a noun; a capital "A" within an answer is a name
_ARTICLE = re.compile(r"(?<=\s)(?:an|some|the|a)\s+(?=\w)")
# what repeats a yes or a no
_ECHO = re.compile(
    r"(\W*(?:yes|no)\b)\W+(?:(?:it|there|they|(?:is|are|does|do)(?:n't)?|not)\b\W*)+",
    re.IGNORECASE,
)
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


@checked
def normalised(answer: str) -> str:
    """Return an answer without what makes it no other.

    In lower case, numbers up to ten as digits, without punctuation and articles, and without words
    such as "it is on" before what they introduce; an answer of nothing else keeps them. "Yes, there
    is" is "yes". What changes a number or a name is no punctuation: "-5", "1.5", "1/2", "C++",
    "A+". Decimals are as short as they can be, without commas between thousands.
    """
    separate = _JOINT.sub(" ", answer)
    composed = unicodedata.normalize("NFKC", separate)
    if echoed := _ECHO.fullmatch(composed):
        composed = echoed[1]
    leading = _LEADING.match(composed)
    bare = composed[leading.end() :] if leading else composed
    plain = _ARTICLE.sub("", bare).casefold().translate(_ASCII)
    american = plain.replace("grey", "gray").replace("colour", "color")
    words = _words(american)
    kept = [NUMBERS.get(word, word) for word in words]
    return " ".join(kept) or american.strip()


def _words(text: str) -> list[str]:
    """Return numbers and words; the marks of a script belong to the letter before them."""
    text = _GROUPS.sub(lambda number: number[0].replace(",", ""), text)
    text = _NEGATIVE_SUM.sub(r"\1-", text)
    marks = "".join({char for char in text if unicodedata.category(char).startswith("M")})
    word = rf"[\w{re.escape(marks)}]+(?:\+\+|#)?"
    # as of marks and blood groups
    sign = r"(?<!\w)[^\W\d_][+-](?![\w+-])"
    # a unit may follow at once, as in "-5cm"
    number = rf"(?<!\w)-?(?:\d+(?:[./]\d+)*|(?<!\.)\.\d+)(?:{word})?"
    return [_shortest(found) for found in re.findall(rf"{number}|{sign}|{word}", text)]


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
