"""The questions of the scenes: each follows from the things alone, none can be guessed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

from adafv.data.canvas import CARD, COLORS, ICONS
from adafv.data.sample import Box, Question, Thing

Things = tuple[Thing, ...]
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
MANY = 6
"""The most things that are counted."""


@dataclass(frozen=True)
class _Scene:
    """A scene to ask about.

    The order in which numbers are drawn decides what a seed asks: it must not change.

    Attributes:
        rng: that decides what is asked.
        things: on the image.
        size: of the image, width and height.
        limit: the longest side, in pixels, of what is asked about; None: any.
    """

    rng: random.Random
    things: Things
    size: tuple[int, int]
    limit: float | None

    def fits(self, thing: Thing) -> bool:
        """Tell if a thing is not larger than what is asked about."""
        return self.limit is None or _side(thing.box) <= self.limit

    def icons(self) -> list[Thing]:
        """Return the icons that are not too large."""
        return [thing for thing in self.things if thing.name != CARD and self.fits(thing)]

    def unique(self) -> list[Thing]:
        """Return the icons whose name is theirs alone."""
        names = [thing.name for thing in self.things]
        found = []
        for thing in self.things:
            if thing.name != CARD and names.count(thing.name) == 1:
                found.append(thing)
        return found


def plural(name: str) -> str:
    """Return the plural of a thing's name ("scissors" has none of its own)."""
    if name == "scissors":
        return name
    return name + ("es" if name == "cross" else "s")


def article(word: str) -> str:
    """Return `word` with its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _side(box: Box) -> int:
    """Return the longer side of a box."""
    return max(box[2] - box[0], box[3] - box[1])


def _center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2  # x, y


def _gap(a: Box, b: Box) -> int:
    """Return how far two boxes are apart, along the axis on which they are farther."""
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])


def neighbours(thing: Thing, things: Things, side: str) -> list[Thing]:
    """Return the things on `side` of `thing` within its row or column.

    That is a band as wide as the thing itself.
    """
    # x or y; left and above come before, right and below after
    along = 0 if side in ("left", "right") else 1
    across = 1 - along
    before = side in ("left", "above")

    found = []
    for other in things:
        if other is thing:
            continue
        # they share a part of the row, or of the column
        start = max(other.box[across], thing.box[across])
        end = min(other.box[across + 2], thing.box[across + 2])
        if before:
            on_side = other.box[along + 2] <= thing.box[along]
        else:
            on_side = other.box[along] >= thing.box[along + 2]
        if start < end and on_side:
            found.append(other)
    return found


def where(first: Thing, second: Thing, size: tuple[int, int]) -> str | None:
    """Return which side of `second` the thing `first` is on; None: not clearly one of the four."""
    x, y = _center(first.box)
    u, v = _center(second.box)
    dx = (x - u) / size[0]
    dy = (y - v) / size[1]

    # too near to say, or about as far down as aside
    far = max(abs(dx), abs(dy))
    near = min(abs(dx), abs(dy))
    if far < 0.15 or near > 0.5 * far:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _color(scene: _Scene) -> Question | None:
    """Ask for the color of a thing."""
    # a name that two things have would ask about both
    known = list(filter(scene.fits, scene.unique()))
    if not known:
        return None
    thing = scene.rng.choice(known)
    return Question(f"what color is the {thing.name}?", thing.color, "color", (thing.box,))


def _exists(scene: _Scene) -> Question | None:
    """Ask if there is such a thing: of a name, or of a name and a color."""
    rng = scene.rng
    things = scene.things
    icons = scene.icons()
    if not icons:
        return None
    thing = rng.choice(icons)
    same_name = tuple(t.box for t in icons if t.name == thing.name)

    # the name alone
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            return Question(f"is there {article(thing.name)}?", "yes", "exists", same_name)
        # cards are things, and no question names them
        names = {t.name for t in things}
        absent = rng.choice([name for name in ICONS if name not in names])
        return Question(f"is there {article(absent)}?", "no", "exists", ())

    # name and color, and it is there
    if rng.random() < 0.5:
        text = f"is there {article(thing.color)} {thing.name}?"
        same = tuple(t.box for t in icons if (t.name, t.color) == (thing.name, thing.color))
        return Question(text, "yes", "exists", same)

    # a distractor: the name is there, the color may be too, but not on it
    taken = {t.color for t in things if t.name == thing.name}
    absent_colors = [color for color in COLORS if color not in taken]
    others = sorted({t.color for t in things} - taken)
    near = others and rng.random() < 0.6
    color = rng.choice(others if near else absent_colors)
    return Question(f"is there {article(color)} {thing.name}?", "no", "exists", same_name)


def _count(scene: _Scene) -> Question | None:
    """Ask for a number: of all things, or of those of a name."""
    rng = scene.rng
    if scene.limit is None and rng.random() < 0.5:
        if len(scene.things) > MANY:
            return None
        boxes = tuple(thing.box for thing in scene.things)
        return Question("how many things are there?", str(len(boxes)), "count", boxes)

    # else the answer would nearly always be 1
    names = [thing.name for thing in scene.icons()]
    several = sorted({name for name in names if names.count(name) > 1})
    if not names or (not several and rng.random() < 0.7):
        return None
    name = rng.choice(several if several and rng.random() < 0.8 else names)
    boxes = tuple(thing.box for thing in scene.things if thing.name == name)
    return Question(f"how many {plural(name)} are there?", str(len(boxes)), "count", boxes)


def _relation(scene: _Scene) -> Question | None:
    """Ask where a thing is relative to another."""
    rng = scene.rng
    least = 0.14 * min(scene.size)
    known = [thing for thing in scene.unique() if _side(thing.box) >= least]
    pairs = []
    for a, b in permutations(known, 2):
        side = where(a, b, scene.size)
        if side:
            pairs.append((a, b, side))
    if not pairs:
        return None

    # open, or to be confirmed
    a, b, side = rng.choice(pairs)
    boxes = (a.box, b.box)
    if rng.random() < 0.5:
        text = f"where is the {a.name} relative to the {b.name}?"
        return Question(text, side, "relation", boxes)
    yes = rng.random() < 0.5
    asked = _words(side if yes else OPPOSITE[side])
    text = f"is the {a.name} {asked} the {b.name}?"
    return Question(text, "yes" if yes else "no", "relation", boxes)


def _words(side: str) -> str:
    return f"{side} of" if side in ("left", "right") else side


def _beside(scene: _Scene) -> Question | None:
    """Ask what is on a side of a thing: the answer is in the image alone."""
    least = 0.14 * min(scene.size)
    found = []
    for thing in scene.unique():
        for side in OPPOSITE:
            near = neighbours(thing, scene.things, side)
            # one answer, large enough, and an icon
            if len(near) != 1 or near[0].name == CARD:
                continue
            other = near[0]
            if min(_side(other.box), _side(thing.box)) < least:
                continue
            # and not across the image
            axis = 1 if side in ("above", "below") else 0
            distance = abs(_center(other.box)[axis] - _center(thing.box)[axis])
            if distance < 0.4 * min(scene.size):
                found.append((thing, other, side))
    if not found:
        return None
    thing, other, side = scene.rng.choice(found)
    text = f"what is {_words(side)} the {thing.name}?"
    return Question(text, other.name, "beside", (thing.box, other.box))


def _text(scene: _Scene) -> Question | None:
    """Ask what is written on a card, which an icon beside it names, or its color."""
    rng = scene.rng
    edge = min(scene.size)
    cards = [thing for thing in scene.things if thing.text]
    options: list[tuple[str, Thing, tuple[Box, ...]]] = []
    for icon in scene.unique():
        gaps = sorted((_gap(icon.box, card.box), i) for i, card in enumerate(cards))
        # one card is near, and no other nearly as near
        if not gaps or gaps[0][0] > 0.06 * edge:
            continue
        if len(gaps) == 1 or gaps[1][0] > 0.15 * edge:
            card = cards[gaps[0][1]]
            options.append((f"next to the {icon.name}", card, (icon.box, card.box)))
    beside = list(options)
    for card in cards:
        options.append((f"on the {card.color} card", card, (card.box,)))
    if not options:
        return None

    # those beside an icon are rarer, and harder
    chosen = beside if beside and rng.random() < 0.5 else options
    position, card, boxes = rng.choice(chosen)
    assert card.text is not None
    return Question(f"what is written {position}?", card.text, "text", boxes)


def _two(scene: _Scene) -> Question | None:
    """Ask if two things have the same color; at any size they must be far apart."""
    rng = scene.rng
    known = list(filter(scene.fits, scene.unique()))
    least = 0.35 * max(scene.size) if scene.limit is None else 0

    # yes and no are as likely, whatever the scene
    wanted = rng.random() < 0.5
    pairs = []
    for a, b in permutations(known, 2):
        x, y = _center(a.box)
        u, v = _center(b.box)
        far = max(abs(x - u), abs(y - v)) > least
        if far and (a.color == b.color) == wanted:
            pairs.append((a, b))
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    text = f"are the {a.name} and the {b.name} the same color?"
    return Question(text, "yes" if wanted else "no", "two", (a.box, b.box))


KINDS: dict[str, Callable[[_Scene], Question | None]] = {
    "color": _color,
    "exists": _exists,
    "count": _count,
    "relation": _relation,
    "beside": _beside,
    "text": _text,
    "two": _two,
}
# each as often as it stands here
ASKED = {
    "scenes": tuple(KINDS),
    "scenes-small": ("color", "color", "exists", "exists", "two"),
    "scenes-text": ("text", "text", "text"),
    "clips": ("color", "exists", "beside", "beside", "beside", "text", "two"),
}
SMALL = 24
"""The longest side, in an image of 192 pixels, of what scenes-small asks about."""


def ask(
    rng: random.Random, things: Things, suite: str, size: tuple[int, int], times: int = 1
) -> list[Question]:
    """Return questions of every type of `suite` that `things` allow, none twice.

    Args:
        rng: decides what is asked.
        things: on the image.
        suite: of the image.
        size: of the image, width and height.
        times: tries for each type.
    """
    limit = SMALL * min(size) / 192 if suite == "scenes-small" else None
    scene = _Scene(rng, things, size, limit)
    asked: dict[str, Question] = {}
    for kind in ASKED[suite] * times:
        question = KINDS[kind](scene)
        # the first of two that are the same counts
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values())
