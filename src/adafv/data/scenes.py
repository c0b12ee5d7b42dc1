"""Scenes: images drawn by code, whose every thing, box and answer is known.

A scene is a pure function of (split, suite, seed, size). `split` is part of what the generator is
seeded with, so images of two splits never share a stream of random numbers, whatever their seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from adafv.data.canvas import (
    CARD,
    COLORS,
    ICONS,
    NUMBERS,
    WORDS,
    background,
    card_masks,
    icon_mask,
    ink_color,
)
from adafv.data.sample import Box, Question, Sample, Thing
from adafv.data.scene_questions import ask
from adafv.utils.checks import checked

__all__ = ["SCENE_SUITES", "SPLITS", "Question", "Sample", "Thing", "compose", "draw", "stream"]

SPLITS = ("train", "validation", "test")
SCENE_SUITES = ("scenes", "scenes-small", "scenes-text")
SIDES = ("left", "right", "above", "below")
SIZES = {
    "tiny": (15, 20),
    "small": (20, 30),
    "medium": (30, 44),
    "large": (44, 62),
}
"""The longer side of an icon, in pixels of an image of 192."""


@dataclass(frozen=True)
class _Plan:
    """A thing before it is placed.

    Attributes:
        pixels: the icon's longer side, or the font size of a card.
        text: of a card.
        dull: close to the background's colour.
    """

    name: str
    color: str
    pixels: int
    text: str | None = None
    dull: bool = False


class _Board:
    """Places plans on a canvas without overlap."""

    def __init__(self, rng: random.Random, size: tuple[int, int]) -> None:
        self.rng = rng
        self.size = size
        self.placed: list[tuple[_Plan, Box]] = []

    def _shape(self, plan: _Plan) -> tuple[int, int]:
        # a card is as large as its text needs
        if plan.text:
            return card_masks(plan.text, plan.pixels)[0].size
        return icon_mask(plan.name, plan.pixels).size

    def _free(self, box: Box, margin: int) -> bool:
        """Tell if a box lies inside the image and `margin` away from what is placed."""
        width, height = self.size
        left, top, right, bottom = box
        if left < 2 or top < 2 or right > width - 2 or bottom > height - 2:
            return False

        # a crop of the model ends in the middle: what is small lies in one crop, what is large may
        # be cut
        if max(right - left, bottom - top) <= 0.3 * min(width, height):
            cut = left < width / 2 < right or top < height / 2 < bottom
            if cut:
                return False

        for _, other in self.placed:
            beside = right + margin <= other[0] or other[2] + margin <= left
            over = bottom + margin <= other[1] or other[3] + margin <= top
            if not beside and not over:
                return False
        return True

    def put(
        self, plan: _Plan, within: Box | None = None, margin: int = 5, tries: int = 60
    ) -> Box | None:
        """Place `plan` anywhere `within` (the image); None where no room was found."""
        width, height = self._shape(plan)
        x, y, right, bottom = within or (0, 0, *self.size)
        # at random, a few times: a scene need not be full
        for _ in range(tries):
            # where there is no room the edge of the image says so, see `_free`
            left = self.rng.randint(x, max(x, right - width))
            top = self.rng.randint(y, max(y, bottom - height))
            box = (left, top, left + width, top + height)
            if self._free(box, margin):
                self.placed.append((plan, box))
                return box
        return None

    def put_beside(self, plan: _Plan, anchor: Box, sides: tuple[str, ...]) -> Box | None:
        """Place `plan` against `anchor`, a small gap away, on one of `sides`."""
        width, height = self._shape(plan)
        # the sides in any order, until one has room
        for side in self.rng.sample(sides, len(sides)):
            gap = self.rng.randint(4, 9)
            # in the middle of the side
            left = (anchor[0] + anchor[2] - width) // 2
            top = (anchor[1] + anchor[3] - height) // 2
            if side in ("left", "right"):
                left = anchor[0] - gap - width if side == "left" else anchor[2] + gap
            else:
                top = anchor[1] - gap - height if side == "above" else anchor[3] + gap
            box = (left, top, left + width, top + height)
            if self._free(box, 4):
                self.placed.append((plan, box))
                return box
        return None


def _pick_size(rng: random.Random, side: int, kind: str) -> int:
    """Draw the longer side of an icon, in pixels, for an image of `side`."""
    low, high = SIZES[kind]
    # in proportion to the image, and never too small to be seen
    return max(8, round(rng.randint(low, high) * side / 192))


class _Composer:
    """Draws what a scene is made of, and places it.

    The order in which numbers are drawn decides what a seed shows: it must not change.
    """

    def __init__(self, rng: random.Random, size: tuple[int, int]) -> None:
        self.rng = rng
        self.size = size
        self.side = min(size)
        self.board = _Board(rng, size)
        # names, words and colours of cards come once in an image
        self.names = rng.sample(list(ICONS), len(ICONS))
        self.texts = rng.sample([*WORDS, *NUMBERS[: rng.choice((9, 20))]], 8)
        self.card_colors = rng.sample(list(COLORS), len(COLORS))
        # else two things would hardly ever share a colour
        self.favourite = rng.choice(list(COLORS))

    def color(self) -> str:
        """Draw a colour, often the favourite."""
        return self.favourite if self.rng.random() < 0.4 else self.rng.choice(list(COLORS))

    def card(self, low: int, high: int) -> _Plan:
        """Draw a card with letters of `low` to `high` pixels, in an image of 192."""
        color = self.card_colors.pop()
        pixels = max(8, round(self.rng.randint(low, high) * self.side / 192))
        return _Plan(CARD, color, pixels, self.texts.pop())

    def icon(self, kind: str, dull: bool = False) -> _Plan:
        """Draw an icon whose name is its alone."""
        # the name first, then the color, then the size: see above
        name = self.names.pop()
        color = self.color()
        return _Plan(name, color, _pick_size(self.rng, self.side, kind), dull=dull)

    def pair(self, plan: Callable[[], _Plan]) -> None:
        """Place an icon, and something beside it."""
        anchor = self.board.put(self.icon("medium"))
        if anchor:
            self.board.put_beside(plan(), anchor, SIDES)

    def large_card(self) -> _Plan:
        """Draw a card that the model can read."""
        return self.card(20, 24)

    def text(self) -> None:
        """Compose scenes-text: cards, most of them beside an icon that names them."""
        for _ in range(self.rng.choice((1, 2, 2))):
            self.pair(self.large_card)
        for _ in range(self.rng.randint(1, 2)):
            self.board.put(self.card(12, 20))
        total = len(self.board.placed) + self.rng.randint(0, 2)
        self.fill(total, ("tiny", "small", "medium"))

    def small(self) -> None:
        """Compose scenes-small: tiny dull things among large loud ones."""
        # something loud in every crop
        x = self.size[0] // 2
        y = self.size[1] // 2
        for left, top in ((0, 0), (x, 0), (0, y), (x, y)):
            self.board.put(self.icon("large"), (left, top, left + x, top + y))
        for _ in range(self.rng.randint(2, 3)):
            self.board.put(self.icon("tiny", dull=True))

        # another of something tiny, for questions that one glance does not answer
        if self.rng.random() < 0.5:
            tiny = [plan for plan, _ in self.board.placed if plan.dull]
            same = self.rng.choice(tiny or [self.icon("tiny", True)])
            color = self.color()
            pixels = _pick_size(self.rng, self.side, "tiny")
            self.board.put(replace(same, color=color, pixels=pixels))

    def mixed(self) -> None:
        """Compose scenes: a few things of any size."""
        rng = self.rng
        total = rng.randint(3, 7)
        shape = rng.random()
        # neighbours, for what-is-left-of
        if shape < 0.45:
            self.pair(lambda: self.icon("medium"))
        # a card beside an icon
        if shape > 0.25 and rng.random() < 0.6:
            self.pair(self.large_card)
        # a card on its own
        if rng.random() < 0.45:
            self.board.put(self.card(12, 20))
        # several of one kind
        if rng.random() < 0.4:
            name = self.names.pop()
            for _ in range(rng.randint(2, 4)):
                if len(self.board.placed) < total:
                    color = self.color()
                    pixels = _pick_size(rng, self.side, rng.choice(("small", "medium")))
                    self.board.put(_Plan(name, color, pixels))
        self.fill(total, ("tiny", "small", "medium", "medium", "large"))

    def fill(self, total: int, kinds: tuple[str, ...]) -> None:
        """Place icons up to `total` things, or until not even a tiny one fits."""
        while len(self.board.placed) < total:
            if self.board.put(self.icon(self.rng.choice(kinds))) is not None:
                continue
            if self.board.put(self.icon("tiny")) is None:
                return


@checked
def compose(
    rng: random.Random, suite: str, size: tuple[int, int]
) -> tuple[Image.Image, tuple[Thing, ...]]:
    """Draw one image of `suite`; return it with its things, in the order they were drawn."""
    composer = _Composer(rng, size)
    if suite == "scenes-text":
        composer.text()
    elif suite == "scenes-small":
        composer.small()
    else:
        composer.mixed()
    return _paint(rng, composer.board, size)


def _paint(
    rng: random.Random, board: _Board, size: tuple[int, int]
) -> tuple[Image.Image, tuple[Thing, ...]]:
    """Paint what is placed, and return it as things."""
    image = background(rng, size)
    things = []
    for plan, box in board.placed:
        # three quarters of its colour, a quarter of what is behind
        fill: tuple[int, ...] = COLORS[plan.color]
        if plan.dull:
            behind = image.getpixel((box[0], box[1]))
            assert isinstance(behind, tuple)
            fill = tuple(round(0.75 * f + 0.25 * b) for f, b in zip(fill, behind, strict=True))
        # a card in its color, with letters in black or white
        if plan.text:
            area, ink = card_masks(plan.text, plan.pixels)
            image.paste(fill, box[:2], area)
            image.paste(ink_color(plan.color), box[:2], ink)
        else:
            image.paste(fill, box[:2], icon_mask(plan.name, plan.pixels))
        things.append(Thing(plan.name, plan.color, box, plan.text))
    return image, tuple(things)


@checked
def stream(seed: int, *, split: str, suite: str, size: tuple[int, int]) -> random.Random:
    """Return the generator a scene is drawn from.

    The split is part of its seed, so the splits can't meet.
    """
    return random.Random(f"adafv/{split}/{suite}/{size[0]}x{size[1]}/{seed}")


def draw(
    seed: int, *, split: str, suite: str = "scenes", size: tuple[int, int] = (192, 192)
) -> Sample:
    """Draw a scene with its questions.

    Args:
        seed: of the scene.
        split: one of `SPLITS`.
        suite: one of `SCENE_SUITES`.
        size: width and height in pixels.

    Raises:
        ValueError: an unknown split or suite, or a side below 96 pixels.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(SPLITS)}")
    if suite not in SCENE_SUITES:
        raise ValueError(f"suite={suite!r} is not drawn by code; known: {', '.join(SCENE_SUITES)}")
    if min(size) < 96:
        raise ValueError(f"size={size} is too small for a scene; use at least 96 pixels a side")
    rng = stream(seed, split=split, suite=suite, size=size)
    # now and then things allow no question: draw on
    while True:
        image, things = compose(rng, suite, size)
        questions = ask(rng, things, suite, size)
        if questions:
            return Sample(f"{suite}/{split}/{seed}", image, tuple(questions), things)
