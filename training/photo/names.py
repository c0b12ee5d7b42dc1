"""Know the nouns that the model learns to say, each with its kind and other words for it."""

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "NOUNS",
    "Noun",
    "called_alike",
    "lines_of",
    "noun_in",
    "noun_of",
    "plural",
    "sections",
    "with_article",
]

IRREGULAR = {
    "goose": "geese",
    "knife": "knives",
    "leaf": "leaves",
    "man": "men",
    "mouse": "mice",
    "tooth": "teeth",
    "foot": "feet",
    "wolf": "wolves",
    "woman": "women",
    "woodlouse": "woodlice",
}
"""Plurals that no rule makes."""
_PAIRS = """
    binoculars, fireworks, french fries, glasses, grapes, headphones, pancakes, pants,
    pliers, scissors, sunglasses, dice
"""
PAIRS = {name.strip() for name in _PAIRS.split(",")}
"""Nouns that are plural already."""
SAME = {"fish", "clownfish", "lionfish", "sheep", "deer", "reindeer", "shrimp", "bison"}
"""Nouns whose plural looks like one."""
_MASS = """
    bacon, bamboo, beer, bread, broccoli, butter, candy, cheese, chocolate, clothing,
    coffee, corn, fire, food, fruit, furniture, garlic, ginger, holly, juice, lasagna,
    lavender, lemonade, lettuce, lightning, milk, money, santa claus, soda, soup,
    spaghetti, tea, thyme, wine
"""
MASS = {name.strip() for name in _MASS.split(",")}
"""Nouns that nobody counts."""


@dataclass(frozen=True)
class Noun:
    """A thing that an image may show: its name, its kind, and other words for it."""

    name: str
    kind: str
    aliases: tuple[str, ...] = ()


def lines_of(path: Path) -> list[str]:
    """Read the lines of a text file, without comments and empty ones."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def sections(path: Path) -> dict[str, list[str]]:
    """Read a text file of `[section]` lines and what follows each, without comments."""
    found: dict[str, list[str]] = {}
    for line in lines_of(path):
        if line.startswith("["):
            found[line.strip("[]")] = []
        else:
            found[list(found)[-1]].append(line)
    return found


def _read(path: Path) -> dict[str, Noun]:
    """Read nouns by their names, from a section for each kind."""
    nouns = {}
    for kind, lines in sections(path).items():
        for line in lines:
            # a name, or "name: other, words"
            name, _, others = line.partition(": ")
            nouns[name] = Noun(name, kind, tuple(others.split(", ")) if others else ())
    return nouns


NOUNS = _read(Path(__file__).with_name("nouns.txt"))
# Every word for a noun; captions have no hyphens.
_WORDS: dict[str, Noun] = {}
for _noun in NOUNS.values():
    for _word in (_noun.name.replace("-", " "), *_noun.aliases):
        _WORDS[_word] = _noun
_GENERAL: dict[str, set[str]] = {}
for _line in lines_of(Path(__file__).with_name("general_nouns.txt")):
    _general, _, _others = _line.partition(": ")
    _GENERAL[_general] = set(_others.split(", "))
_LONGEST = max(len(word.split()) for word in _WORDS)
# Words before which a caption has said what it shows; some captions are Italian.
_CUT = re.compile(r"\b(with|on|in|of|under|from|for|by|con|sul|di|del|without)\b")


def called_alike(name: str, other: str) -> bool:
    """Return whether a thing may be called by either of two names: a rose is a flower."""
    for general, special in ((name, other), (other, name)):
        of_kind = general == NOUNS[special].kind
        if general == special or of_kind or special in _GENERAL.get(general, ()):
            return True
    return False


def noun_in(caption: str) -> Noun | None:
    """Find the noun that a caption ends on, before any "with …" or "on …".

    Returns:
        None: it ends on no known noun, or names several things.
    """
    words = re.findall(r"[a-z]+", caption.lower())
    text = " ".join(words)
    if " and " in f" {text} " or " e " in f" {text} ":
        return None
    for part in (_CUT.split(text)[0], text):
        found = _last(part.split())
        if found is not None:
            return found
    return None


def noun_of(phrase: str) -> Noun | None:
    """Return the noun that a phrase is, as one or several of it; None: it is more, or unknown."""
    for form in (phrase, phrase.removesuffix("s"), re.sub("ies$", "y", phrase)):
        if form in _WORDS:
            return _WORDS[form]
    return None


def _last(words: list[str]) -> Noun | None:
    """Return the last noun among words, the longest that ends there."""
    for end in range(len(words), 0, -1):
        for start in range(max(0, end - _LONGEST), end):
            phrase = " ".join(words[start:end])
            # a plural, too
            for form in (phrase, phrase.removesuffix("s")):
                if form in _WORDS:
                    return _WORDS[form]
    return None


def plural(name: str) -> str:
    """Return the plural of a thing's name."""
    if name in IRREGULAR:
        return IRREGULAR[name]
    if name in PAIRS | SAME | MASS:
        return name
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    if name.endswith(("s", "x", "ch", "sh", "potato", "tomato")):
        return name + "es"
    return name + "s"


def with_article(name: str) -> str:
    """Return a thing's name with its article: "an owl", "a cat", "scissors"."""
    if name in PAIRS | MASS:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
