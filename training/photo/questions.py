"""Ask questions about a scene, with short answers, each in at least twenty wordings."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adafv.data.judging import same_answer
from training.photo.names import NOUNS, called_alike, plural, sections, with_article
from training.photo.scenes import Thing

__all__ = ["TYPES", "WORDINGS", "Question", "absent_names", "matches", "questions"]


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        text: as it is asked.
        answer: the right one.
        type: one of `TYPES`.
        about: indices of the things that it is about.
        accepted: other answers that are as right.
    """

    text: str
    answer: str
    type: str
    about: tuple[int, ...] = ()
    accepted: tuple[str, ...] = ()


WORDINGS = sections(Path(__file__).with_name("wordings.txt"))
TYPES = tuple(WORDINGS)
# Ninths of the image, by column and row.
REGIONS = {
    "top left": (0, 0),
    "top": (1, 0),
    "top right": (2, 0),
    "left": (0, 1),
    "center": (1, 1),
    "right": (2, 1),
    "bottom left": (0, 2),
    "bottom": (1, 2),
    "bottom right": (2, 2),
}
NUMBERS = ("0", "1", "2", "3", "4", "5", "6")
WORDS = ("zero", "one", "two", "three", "four", "five", "six")
# Several of a kind, where a noun's plural is not what one says.
SEVERAL = {
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
# Of the image's side: nearer than this to a border of its region, a thing is in no clear region.
EDGE = 0.04


def questions(
    things: tuple[Thing, ...],
    random: np.random.Generator,
    count: int,
    types: tuple[str, ...] = TYPES,
) -> list[Question]:
    """Draw several questions about a scene, as different in type as it and `types` allow.

    The first one asks for a description, if that is among the types.
    """
    drawn: list[Question] = []
    texts: set[str] = set()
    shuffled = [types[index] for index in random.permutation(len(types))]
    order = sorted(shuffled, key=lambda type_: type_ != "describe")
    while len(drawn) < count:
        # a round: one question of each type, where the scene has one
        before = len(drawn)
        for type_ in order:
            made = _MAKERS[type_](things, random)
            if made is not None and made.text not in texts and len(drawn) < count:
                drawn.append(made)
                texts.add(made.text)
        order = [type_ for type_ in order if type_ != "describe"]
        # a round without a new question: the scene has no more
        if len(drawn) == before:
            break
    return drawn


def matches(said: str, question: Question) -> bool:
    """Return whether an answer is the right one, or one that is as right, after normalising."""
    return any(same_answer(said, right) for right in (question.answer, *question.accepted))


def _one(random: np.random.Generator, options: list) -> object:
    """Draw one of some options."""
    return options[int(random.integers(len(options)))]


def _ask(
    type_: str,
    random: np.random.Generator,
    answer: str,
    about: tuple[int, ...],
    accepted: tuple[str, ...] = (),
    **words: str,
) -> Question:
    """Return a question of a type in one of its wordings."""
    text = str(_one(random, WORDINGS[type_])).format(**words)
    return Question(text, answer[0].upper() + answer[1:], type_, about, accepted)


def _thing_answer(name: str, colour: str | None = None) -> str:
    """Return the name of a thing as an answer: "an owl", "a black owl", "some bread"."""
    said = name if colour is None else f"{colour} {name}"
    return f"some {said}" if with_article(name) == name else with_article(said)


def _also(name: str) -> tuple[str, ...]:
    """Return other words for a thing."""
    return (*NOUNS[name].aliases, plural(name))


def _unique(things: tuple[Thing, ...]) -> list[int]:
    """Return indices of things that alone may be called by their name."""
    found = []
    for index, thing in enumerate(things):
        others = things[:index] + things[index + 1 :]
        if not any(called_alike(thing.name, other.name) for other in others):
            found.append(index)
    return found


def _region(thing: Thing) -> str | None:
    """Return the ninth of the image in which a thing lies; None: it is too near to a border."""
    x, y = thing.centre
    for border in (1 / 3, 2 / 3):
        if abs(x - border) < EDGE or abs(y - border) < EDGE:
            return None
    return next(name for name, cell in REGIONS.items() if cell == (int(x * 3), int(y * 3)))


def _in_region(region: str) -> str:
    """Return a region with its preposition."""
    if region == "center":
        return "in the center"
    if region in ("left", "right"):
        return f"on the {region}"
    return f"at the {region}"


# What follows makes a question of each type, or None where a scene has no clear one. The order in
# which random numbers are drawn is part of what a seed means.


def _what(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    names = {thing.name for thing in things}
    if len(names) != 1:
        return None
    name = things[0].name
    return _ask("what", random, _thing_answer(name), tuple(range(len(things))), _also(name))


def absent_names(things: tuple[Thing, ...]) -> list[str]:
    """Return the nouns by which nothing that is shown may be called."""
    shown = {thing.name for thing in things}
    return [name for name in NOUNS if not any(called_alike(name, other) for other in shown)]


def _absent(things: tuple[Thing, ...], random: np.random.Generator) -> str:
    """Draw a noun that is not shown; two of five times one of a kind that is."""
    kinds = {thing.kind for thing in things}
    far = absent_names(things)
    near = [name for name in far if NOUNS[name].kind in kinds]
    return str(_one(random, near if random.random() < 0.4 and near else far))


def _exists(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    kinds = {thing.kind for thing in things}
    about: tuple[int, ...] = ()
    yes = random.random() < 0.5
    if random.random() < 0.25:
        # of a kind; whether a bird is an animal is not asked
        options = []
        for kind in NAMED_KINDS:
            doubtful = kind == "animal" and kind not in kinds and kinds & set(CREATURES)
            if (kind in kinds) == yes and not doubtful:
                options.append(kind)
        if not options:
            return None
        name = str(_one(random, options))
        about = tuple(index for index, thing in enumerate(things) if thing.kind == name)
    elif yes:
        name = things[int(random.integers(len(things)))].name
        about = tuple(index for index, thing in enumerate(things) if thing.name == name)
    else:
        name = _absent(things, random)
    several = SEVERAL.get(name, plural(name))
    return _ask("exists", random, "yes" if yes else "no", about, a=with_article(name), s=several)


def _either(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    index = int(random.integers(len(things)))
    right = things[index].name
    wrong = _absent(things, random)
    # the right one first or second
    first, second = right, wrong
    if random.random() >= 0.5:
        first, second = wrong, right
    words = {
        "a": with_article(first),
        "b": with_article(second),
        "A": with_article(first).capitalize(),
    }
    return _ask("either", random, _thing_answer(right), (index,), (), **words)


def _count(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    counts = Counter(thing.name for thing in things)
    # a general name counts others, too
    clear = [name for name in counts if sum(called_alike(name, other) for other in counts) == 1]
    several = [name for name in clear if counts[name] > 1]
    if random.random() < 0.12 or not clear:
        # none of it
        name = _absent(things, random)
    else:
        # mostly of what there is more than one
        options = several if several and random.random() < 0.75 else clear
        name = str(_one(random, options))
    # nobody counts bread
    if plural(name) == name:
        return None
    about = tuple(index for index, thing in enumerate(things) if thing.name == name)
    if len(about) >= len(NUMBERS):
        return None
    return _ask("count", random, NUMBERS[len(about)], about, s=plural(name))


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
    middle = "middle" if region == "center" else region
    accepted = (f"{region} of the picture", f"{region} corner", middle)
    return _ask("where", random, _in_region(region), (index,), accepted, n=things[index].name)


def _at(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    regions = [_region(thing) for thing in things]
    cells = Counter(regions)
    # only where every thing is in a clear region, and this one alone in its own
    options = []
    for index, region in enumerate(regions):
        if region is not None and cells[region] == 1 and None not in cells:
            options.append(index)
    if not options or len({thing.name for thing in things}) == 1:
        return None
    index = int(_one(random, options))  # type: ignore[call-overload]
    name = things[index].name
    region = _in_region(str(regions[index]))
    return _ask("at", random, _thing_answer(name), (index,), _also(name), p=region)


def _side(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    """Ask for what is left of, right of, above or below a thing, where that is one thing alone."""
    if len(things) != len(_unique(things)) or not 2 <= len(things) <= 3:
        return None
    index = int(random.integers(len(things)))
    axis, sign, words = [
        (0, -1, "to the left of"),
        (0, 1, "to the right of"),
        (1, -1, "above"),
        (1, 1, "below"),
    ][int(random.integers(4))]
    # how far the others are in that direction, and across it
    offsets = [sign * (thing.centre[axis] - things[index].centre[axis]) for thing in things]
    across = [abs(thing.centre[1 - axis] - things[index].centre[1 - axis]) for thing in things]
    there = [other for other in range(len(things)) if other != index and offsets[other] > 0.03]
    if len(there) != 1:
        return None
    [other] = there
    if offsets[other] < 0.15 or across[other] > 1.5 * offsets[other]:
        return None
    name = things[other].name
    return _ask(
        "side",
        random,
        _thing_answer(name),
        (index, other),
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
    distances = []
    for other, thing in enumerate(things):
        if other != index:
            distances.append((np.hypot(thing.centre[0] - x, thing.centre[1] - y), other))
    distances.sort()
    # the nearest must be clearly nearer than the next
    nearest, other = distances[0]
    if len(distances) > 1 and distances[1][0] < 1.5 * nearest:
        return None
    name = things[other].name
    own = things[index].name
    return _ask("beside", random, _thing_answer(name), (index, other), _also(name), n=own)


def _kind(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    by_kind = {kind: _names_of(things, kind) for kind in NAMED_KINDS}
    options = [kind for kind, names in by_kind.items() if len(names) == 1 and names != {kind}]
    if not options:
        return None
    kind = str(_one(random, options))
    name = next(iter(by_kind[kind]))
    about = tuple(index for index, thing in enumerate(things) if thing.name == name)
    return _ask("kind", random, _thing_answer(name), about, _also(name), k=kind)


def _names_of(things: tuple[Thing, ...], kind: str) -> set[str]:
    """Return the names of things of a kind."""
    return {thing.name for thing in things if _is(thing, kind)}


def _is(thing: Thing, kind: str) -> bool:
    """Return whether a thing is of a kind; birds are animals too."""
    return thing.kind == kind or (kind == "animal" and thing.kind in CREATURES)


def _list(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    options = [kind for kind in NAMED_KINDS if len(_names_of(things, kind)) in (2, 3)]
    if not options:
        return None
    kind = str(_one(random, options))
    # from left to right
    about = [index for index, thing in enumerate(things) if _is(thing, kind)]
    about.sort(key=lambda index: things[index].centre)
    names = dict.fromkeys(things[index].name for index in about)
    answer = _joined([_thing_answer(name) for name in names])
    return _ask("list", random, answer, tuple(about), ks=SEVERAL.get(kind, plural(kind)))


def _describe(things: tuple[Thing, ...], random: np.random.Generator) -> Question | None:
    # long ones, too: of what a step costs this answer teaches most, name, colour, place and number
    # of everything at once
    counts = Counter(thing.name for thing in things)
    if max(counts.values()) >= len(WORDS):
        return None
    # from left to right
    ordered = sorted(things, key=lambda thing: thing.centre)
    parts = []
    for name in dict.fromkeys(thing.name for thing in ordered):
        own = [thing for thing in things if thing.name == name]
        if len(own) > 1:
            parts.append(f"{WORDS[len(own)]} {plural(name)}")
            continue
        region = _region(own[0])
        part = _thing_answer(name, own[0].colour)
        parts.append(part if region is None else f"{part} {_in_region(region)}")
    return _ask("describe", random, _joined(parts) + ".", tuple(range(len(things))))


def _joined(parts: list[str]) -> str:
    """Return parts of a list as one says them: a, b and c."""
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
