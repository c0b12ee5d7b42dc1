"""Questions about a scene and their short answers, each in at least twenty wordings."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.photo.names import NOUNS, plural, sections, with_article
from training.photo.scenes import Thing

__all__ = ["TYPES", "WORDINGS", "Question", "matches", "normalise", "questions"]


@dataclass(frozen=True)
class Question:
    """A question, its answer, its type, the things that it is about, and other answers that are as
    right.
    """

    text: str
    answer: str
    type: str
    about: tuple[int, ...] = ()
    accepted: tuple[str, ...] = ()


WORDINGS = sections(Path(__file__).with_name("wordings.txt"))
TYPES = tuple(WORDINGS)
REGIONS = {
    "top left": (0, 0), "top": (1, 0), "top right": (2, 0), "left": (0, 1), "center": (1, 1), "right": (2, 1),
    "bottom left": (0, 2), "bottom": (1, 2), "bottom right": (2, 2),
}  # fmt: skip
NUMBERS = ("0", "1", "2", "3", "4", "5", "6")
WORDS = ("zero", "one", "two", "three", "four", "five", "six")
PLACE = {
    "animal": "animals",
    "fruit": "fruits",
    "food": "foods",
    "clothing": "clothes",
    "furniture": "pieces of furniture",
}
NAMED_KINDS = (
    "animal",
    "bird",
    "fish",
    "insect",
    "fruit",
    "vegetable",
    "vehicle",
    "tool",
    "instrument",
    "plant",
    "building",
    "toy",
)
CREATURES = ("animal", "bird", "fish", "insect")
# of the picture's side: nearer than this to a border of its region, a place has no clear name
EDGE = 0.04


def questions(things: tuple[Thing, ...], random: np.random.Generator, count: int) -> list[Question]:
    """Draw several questions about a scene, as different in type as it allows; one of them asks for
    a description.
    """
    asked: list[Question] = []
    texts: set[str] = set()
    order = sorted(
        (TYPES[index] for index in random.permutation(len(TYPES))),
        key=lambda type_: type_ != "describe",
    )
    while len(asked) < count:
        before = len(asked)
        for type_ in order:
            made = _MAKERS[type_](things, random)
            if made is not None and made.text not in texts and len(asked) < count:
                asked.append(made)
                texts.add(made.text)
        order = [type_ for type_ in order if type_ != "describe"]
        if len(asked) == before:
            break
    return asked


def normalise(answer: str) -> str:
    """Lower case, no article, no punctuation, numbers as digits."""
    words = re.findall(
        r"[a-z0-9]+", answer.lower().replace("grey", "gray").replace("colour", "color")
    )
    words = [NUMBERS[WORDS.index(word)] if word in WORDS else word for word in words]
    return " ".join(
        word
        for word in words
        if word
        not in ("a", "an", "the", "some", "at", "in", "on", "there", "is", "are", "it", "to")
    )


def matches(said: str, question: Question) -> bool:
    """Whether an answer is the right one, or one that is as right, after normalising."""
    return normalise(said) in {normalise(right) for right in (question.answer, *question.accepted)}


def _one(random: np.random.Generator, options: list) -> object:
    return options[int(random.integers(len(options)))]


def _ask(
    type_: str,
    random: np.random.Generator,
    answer: str,
    about: tuple[int, ...],
    accepted: tuple[str, ...] = (),
    **words: str,
) -> Question:
    text = str(_one(random, WORDINGS[type_])).format(**words)
    return Question(text, answer[0].upper() + answer[1:], type_, about, accepted)


def _thing_answer(name: str) -> str:
    article = with_article(name)
    return article if article != name else f"some {name}"


def _also(name: str) -> tuple[str, ...]:
    return (*NOUNS[name].aliases, plural(name))


def _unique(things: tuple[Thing, ...]) -> list[int]:
    counts = Counter(thing.name for thing in things)
    return [index for index, thing in enumerate(things) if counts[thing.name] == 1]


def _region(thing: Thing) -> str | None:
    x, y = thing.centre
    if min(abs(value - border) for value in (x, y) for border in (1 / 3, 2 / 3)) < EDGE:
        return None
    return next(name for name, cell in REGIONS.items() if cell == (int(x * 3), int(y * 3)))


def _in_place(region: str) -> str:
    return (
        "in the center"
        if region == "center"
        else f"on the {region}"
        if region in ("left", "right")
        else f"at the {region}"
    )


def _what(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    names = {thing.name for thing in things}
    if len(names) != 1:
        return None
    name = things[0].name
    return _ask("what", random, _thing_answer(name), tuple(range(len(things))), _also(name))


def _absent(things: tuple[Thing, ...], random: np.random.Generator) -> str:
    """A noun that is not shown; every other time one of a kind that is."""
    shown = {thing.name for thing in things}
    kinds = {thing.kind for thing in things}
    near = [name for name, noun in NOUNS.items() if noun.kind in kinds and name not in shown]
    far = [name for name in NOUNS if name not in shown]
    return str(_one(random, near if random.random() < 0.4 and near else far))


def _exists(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    kinds = {thing.kind for thing in things}
    about: tuple[int, ...] = ()
    yes = random.random() < 0.5
    if random.random() < 0.25:
        options = [
            kind
            for kind in NAMED_KINDS
            if (kind in kinds) == yes and not (kind == "animal" and kinds & set(CREATURES))
        ]
        if not options:
            return None
        name = str(_one(random, options))
        about = tuple(index for index, thing in enumerate(things) if thing.kind == name)
    elif yes:
        name = things[int(random.integers(len(things)))].name
        about = tuple(index for index, thing in enumerate(things) if thing.name == name)
    else:
        name = _absent(things, random)
    several = PLACE.get(name, plural(name))
    return _ask("exists", random, "yes" if yes else "no", about, a=with_article(name), s=several)


def _either(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    index = int(random.integers(len(things)))
    right, wrong = things[index].name, _absent(things, random)
    first, second = (right, wrong) if random.random() < 0.5 else (wrong, right)
    words = {
        "a": with_article(first),
        "b": with_article(second),
        "A": with_article(first).capitalize(),
    }
    return _ask("either", random, _thing_answer(right), (index,), (), **words)


def _count(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    counts = Counter(thing.name for thing in things)
    several = [name for name, number in counts.items() if number > 1]
    if random.random() < 0.12:
        name = _absent(things, random)
    else:
        name = str(_one(random, several if several and random.random() < 0.75 else list(counts)))
    if plural(name) == name:
        return None
    about = tuple(index for index, thing in enumerate(things) if thing.name == name)
    return (
        _ask("count", random, NUMBERS[len(about)], about, s=plural(name))
        if len(about) < len(NUMBERS)
        else None
    )


def _colour(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    options = [index for index in _unique(things) if things[index].colour is not None]
    if not options:
        return None
    index = int(_one(random, options))  # type: ignore[call-overload]
    return _ask("colour", random, str(things[index].colour), (index,), n=things[index].name)


def _where(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    options = [index for index in _unique(things) if _region(things[index]) is not None]
    if not options:
        return None
    index = int(_one(random, options))  # type: ignore[call-overload]
    region = str(_region(things[index]))
    accepted = (
        f"{region} of the picture",
        f"{region} corner",
        "middle" if region == "center" else region,
    )
    return _ask("where", random, _in_place(region), (index,), accepted, n=things[index].name)


def _at(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    regions = [_region(thing) for thing in things]
    cells = Counter(regions)
    options = [
        index
        for index, region in enumerate(regions)
        if region is not None and cells[region] == 1 and None not in cells
    ]
    if not options or len({thing.name for thing in things}) == 1:
        return None
    index = int(_one(random, options))  # type: ignore[call-overload]
    name = things[index].name
    return _ask(
        "at", random, _thing_answer(name), (index,), _also(name), p=_in_place(str(regions[index]))
    )


def _side(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    """What is left of, right of, above or below a thing, where one other alone is clearly there."""
    if len(things) != len(_unique(things)) or not 2 <= len(things) <= 3:
        return None
    index = int(random.integers(len(things)))
    axis, sign, words = [
        (0, -1, "to the left of"),
        (0, 1, "to the right of"),
        (1, -1, "above"),
        (1, 1, "below"),
    ][int(random.integers(4))]
    offsets = [sign * (thing.centre[axis] - things[index].centre[axis]) for thing in things]
    across = [abs(thing.centre[1 - axis] - things[index].centre[1 - axis]) for thing in things]
    there = [other for other in range(len(things)) if other != index and offsets[other] > 0.03]
    if len(there) != 1 or offsets[there[0]] < 0.15 or across[there[0]] > 1.5 * offsets[there[0]]:
        return None
    name = things[there[0]].name
    return _ask(
        "side",
        random,
        _thing_answer(name),
        (index, there[0]),
        _also(name),
        d=words,
        D=words.capitalize(),
        n=things[index].name,
    )


def _beside(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    if len(things) < 2 or len(things) != len(_unique(things)):
        return None
    index = int(random.integers(len(things)))
    x, y = things[index].centre
    far = sorted(
        (np.hypot(thing.centre[0] - x, thing.centre[1] - y), other)
        for other, thing in enumerate(things)
        if other != index
    )
    if len(far) > 1 and far[1][0] < 1.5 * far[0][0]:
        return None
    name = things[far[0][1]].name
    return _ask(
        "beside", random, _thing_answer(name), (index, far[0][1]), _also(name), n=things[index].name
    )


def _kind(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    by_kind = {kind: {thing.name for thing in things if _is(thing, kind)} for kind in NAMED_KINDS}
    options = [kind for kind, names in by_kind.items() if len(names) == 1 and names != {kind}]
    if not options:
        return None
    kind = str(_one(random, options))
    name = next(iter(by_kind[kind]))
    about = tuple(index for index, thing in enumerate(things) if thing.name == name)
    return _ask("kind", random, _thing_answer(name), about, _also(name), k=kind)


def _is(thing: Thing, kind: str) -> bool:
    return thing.kind == kind or (kind == "animal" and thing.kind in CREATURES)


def _list(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    options = [
        kind
        for kind in NAMED_KINDS
        if len({thing.name for thing in things if _is(thing, kind)}) in (2, 3)
    ]
    if not options:
        return None
    kind = str(_one(random, options))
    about = sorted(
        (index for index, thing in enumerate(things) if _is(thing, kind)),
        key=lambda index: things[index].centre,
    )
    names = list(dict.fromkeys(things[index].name for index in about))
    return _ask(
        "list",
        random,
        _joined([_thing_answer(name) for name in names]),
        tuple(about),
        ks=PLACE.get(kind, plural(kind)),
    )


def _describe(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    counts = Counter(thing.name for thing in things)
    if len(counts) > 4 or max(counts.values()) >= len(WORDS):
        return None
    names = list(
        dict.fromkeys(
            things[index].name
            for index in sorted(range(len(things)), key=lambda index: things[index].centre)
        )
    )
    parts = []
    for name in names:
        own = [thing for thing in things if thing.name == name]
        region = _region(own[0]) if len(own) == 1 else None
        part = _thing_answer(name) if len(own) == 1 else f"{WORDS[len(own)]} {plural(name)}"
        parts.append(part if region is None else f"{part} {_in_place(region)}")
    return _ask("describe", random, _joined(parts) + ".", tuple(range(len(things))))


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


_MAKERS: dict[str, Callable[[tuple[Thing, ...], np.random.Generator], Question | None]] = {
    "what": _what,
    "exists": _exists,
    "either": _either,
    "count": _count,
    "colour": _colour,
    "where": _where,
    "at": _at,
    "side": _side,
    "beside": _beside,
    "kind": _kind,
    "list": _list,
    "describe": _describe,
}
