"""The questions of the scenes: each follows from the things alone, and none can be guessed from its
words.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import permutations

from adafv.data.canvas import CARD, COLORS, ICONS
from adafv.data.sample import Box, Question, Thing

Things = tuple[Thing, ...]
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
MANY = 6
"""The most things that are counted."""


def plural(name: str) -> str:
    """The plural of a thing's name ("scissors" stays)."""
    if name == "scissors":
        return name
    return name + ("es" if name == "cross" else "s")


def article(word: str) -> str:
    """`word` with its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _side(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _only(things: Things, limit: float = 1e9) -> list[Thing]:
    """Icons whose name is theirs alone, up to `limit` pixels large."""
    names = [t.name for t in things]
    return [
        t for t in things if t.name != CARD and names.count(t.name) == 1 and _side(t.box) <= limit
    ]


def neighbours(thing: Thing, things: Things, side: str) -> list[Thing]:
    """Things on `side` of `thing` within its row or column (a band as wide as the thing itself)."""
    found = []
    axis, low = (0, side == "left") if side in ("left", "right") else (1, side == "above")
    across = 1 - axis
    for other in things:
        if other is thing:
            continue
        inside = min(other.box[across + 2], thing.box[across + 2]) > max(
            other.box[across], thing.box[across]
        )
        before = (
            other.box[axis + 2] <= thing.box[axis]
            if low
            else other.box[axis] >= thing.box[axis + 2]
        )
        if inside and before:
            found.append(other)
    return found


def where(first: Thing, second: Thing, size: tuple[int, int]) -> str | None:
    """Which side of `second` the thing `first` is on; None where it is not clearly one of the four."""
    (x, y), (u, v) = _center(first.box), _center(second.box)
    dx, dy = (x - u) / size[0], (y - v) / size[1]
    if max(abs(dx), abs(dy)) < 0.15 or min(abs(dx), abs(dy)) > 0.5 * max(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _color(
    rng: random.Random, things: Things, size: tuple[int, int], limit: float
) -> Question | None:
    known = _only(things, limit)
    if not known:
        return None
    thing = rng.choice(known)
    return Question(f"what color is the {thing.name}?", thing.color, "color", (thing.box,))


def _exists(
    rng: random.Random, things: Things, size: tuple[int, int], limit: float
) -> Question | None:
    icons = [t for t in things if t.name != CARD and _side(t.box) <= limit]
    if not icons:
        return None
    thing, kinds = rng.choice(icons), {(t.name, t.color) for t in things}
    if rng.random() < 0.5:  # the kind alone
        if rng.random() < 0.5:
            boxes = tuple(t.box for t in icons if t.name == thing.name)
            return Question(f"is there {article(thing.name)}?", "yes", "exists", boxes)
        absent = rng.choice([name for name in ICONS if name not in {t.name for t in things}])
        return Question(f"is there {article(absent)}?", "no", "exists", ())
    if rng.random() < 0.5:
        boxes = tuple(t.box for t in icons if (t.name, t.color) == (thing.name, thing.color))
        return Question(f"is there {article(thing.color)} {thing.name}?", "yes", "exists", boxes)
    # A distractor of the named kind: the name is there, the colour may be too, but not on it.
    others = [c for c in ({t.color for t in things} or COLORS) if (thing.name, c) not in kinds]
    color = rng.choice(sorted(others) if others and rng.random() < 0.6
                       else [c for c in COLORS if (thing.name, c) not in kinds])  # fmt: skip
    boxes = tuple(t.box for t in icons if t.name == thing.name)
    return Question(f"is there {article(color)} {thing.name}?", "no", "exists", boxes)


def _count(
    rng: random.Random, things: Things, size: tuple[int, int], limit: float
) -> Question | None:
    if limit > 1e8 and rng.random() < 0.5:
        if len(things) > MANY:
            return None
        boxes = tuple(t.box for t in things)
        return Question("how many things are there?", str(len(things)), "count", boxes)
    names = [t.name for t in things if t.name != CARD and _side(t.box) <= limit]
    several = sorted({n for n in names if names.count(n) > 1})
    if not names or (not several and rng.random() < 0.7):
        return None  # else the answer is nearly always 1
    name = rng.choice(several if several and rng.random() < 0.8 else names)
    boxes = tuple(t.box for t in things if t.name == name)
    return Question(f"how many {plural(name)} are there?", str(len(boxes)), "count", boxes)


def _relation(
    rng: random.Random, things: Things, size: tuple[int, int], limit: float
) -> Question | None:
    known = [t for t in _only(things) if _side(t.box) >= 0.14 * min(size)]
    pairs = [(a, b, w) for a, b in permutations(known, 2) if (w := where(a, b, size))]
    if not pairs:
        return None
    a, b, side = rng.choice(pairs)
    if rng.random() < 0.5:
        return Question(
            f"where is the {a.name} relative to the {b.name}?", side, "relation", (a.box, b.box)
        )
    yes = rng.random() < 0.5
    asked = side if yes else OPPOSITE[side]
    words = f"{asked} of" if asked in ("left", "right") else asked
    return Question(
        f"is the {a.name} {words} the {b.name}?", "yes" if yes else "no", "relation", (a.box, b.box)
    )


def _beside(
    rng: random.Random, things: Things, size: tuple[int, int], limit: float
) -> Question | None:
    least, found = 0.14 * min(size), []
    for thing in _only(things):
        for side in OPPOSITE:
            near = neighbours(thing, things, side)
            if (
                len(near) != 1
                or near[0].name == CARD
                or min(_side(near[0].box), _side(thing.box)) < least
            ):
                continue
            axis = side in ("above", "below")
            if abs(_center(near[0].box)[axis] - _center(thing.box)[axis]) < 0.4 * min(size):
                found.append((thing, near[0], side))
    if not found:
        return None
    thing, other, side = rng.choice(found)
    words = f"{side} of" if side in ("left", "right") else side
    return Question(
        f"what is {words} the {thing.name}?", other.name, "beside", (thing.box, other.box)
    )


def _text(
    rng: random.Random, things: Things, size: tuple[int, int], limit: float
) -> Question | None:
    cards = [t for t in things if t.text]
    options: list[tuple[str, Thing, tuple[Box, ...]]] = []
    for icon in _only(things):
        gaps = sorted((_gap(icon.box, card.box), i) for i, card in enumerate(cards))
        if (
            gaps
            and gaps[0][0] <= 0.06 * min(size)
            and (len(gaps) == 1 or gaps[1][0] > 0.15 * min(size))
        ):
            options.append(
                (f"next to the {icon.name}", cards[gaps[0][1]], (icon.box, cards[gaps[0][1]].box))
            )
    beside = len(options)
    options += [(f"on the {card.color} card", card, (card.box,)) for card in cards]
    if not options:
        return None
    place, card, boxes = rng.choice(options[:beside] if beside and rng.random() < 0.5 else options)
    assert card.text is not None
    return Question(f"what is written {place}?", card.text, "text", boxes)


def _gap(a: Box, b: Box) -> int:
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])


def _two(
    rng: random.Random, things: Things, size: tuple[int, int], limit: float
) -> Question | None:
    known = _only(things, limit)
    far = 0.35 * max(size) if limit > 1e8 else 0
    pairs = [(a, b) for a, b in permutations(known, 2)
             if max(abs(p - q) for p, q in zip(_center(a.box), _center(b.box), strict=True)) > far]  # fmt: skip
    wanted = rng.random() < 0.5
    pairs = [(a, b) for a, b in pairs if (a.color == b.color) == wanted]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    answer = "yes" if wanted else "no"
    return Question(
        f"are the {a.name} and the {b.name} the same color?", answer, "two", (a.box, b.box)
    )


KINDS: dict[str, Callable[[random.Random, Things, tuple[int, int], float], Question | None]] = {
    "color": _color, "exists": _exists, "count": _count, "relation": _relation, "beside": _beside, "text": _text,
    "two": _two,
}  # fmt: skip
ASKED = {
    "scenes": tuple(KINDS),
    "scenes-small": ("color", "color", "exists", "exists", "two"),
    "scenes-text": ("text", "text", "text"),
}
SMALL = 24
"""The longest side, in a picture of 192 pixels, of what scenes-small asks about."""


def ask(
    rng: random.Random, things: Things, suite: str, size: tuple[int, int], times: int = 1
) -> list[Question]:
    """Questions of every type of `suite` that `things` allow, `times` tries each, none twice."""
    limit = SMALL * min(size) / 192 if suite == "scenes-small" else 1e9
    asked: dict[str, Question] = {}
    for kind in ASKED[suite] * times:
        question = KINDS[kind](rng, things, size, limit)
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values())
