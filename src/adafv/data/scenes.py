"""Scenes: pictures drawn by code, whose every thing, box and answer is known.

A scene is a pure function of (split, suite, seed, size). `split` is part of what the generator is
seeded with, so pictures of two splits never share a stream of random numbers, whatever their seeds.
"""

from __future__ import annotations

import random
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


@dataclass(frozen=True)
class _Plan:
    """A thing before it has a place. `pixels` is the icon's longer side, or the font size of a
    card.
    """

    name: str
    color: str
    pixels: int
    text: str | None = None
    dull: bool = False


class _Board:
    """Places plans on a canvas without overlap."""

    def __init__(self, rng: random.Random, size: tuple[int, int]) -> None:
        self.rng, self.size = rng, size
        self.has_grid: list[tuple[_Plan, Box]] = []

    def _shape(self, plan: _Plan) -> tuple[int, int]:
        return (
            card_masks(plan.text, plan.pixels)[0]
            if plan.text
            else icon_mask(plan.name, plan.pixels)
        ).size

    def _free(self, box: Box, margin: int) -> bool:
        width, height = self.size
        if box[0] < 2 or box[1] < 2 or box[2] > width - 2 or box[3] > height - 2:
            return False
        # A crop of the model ends in the middle: what is small lies in one crop, what is large may
        # be cut.
        if max(box[2] - box[0], box[3] - box[1]) <= 0.3 * min(width, height):
            cut_x, cut_y = box[0] < width / 2 < box[2], box[1] < height / 2 < box[3]
            if cut_x or cut_y:
                return False
        return all(
            box[2] + margin <= o[0]
            or o[2] + margin <= box[0]
            or box[3] + margin <= o[1]
            or o[3] + margin <= box[1]
            for _, o in self.has_grid
        )

    def put(
        self, plan: _Plan, within: Box | None = None, margin: int = 5, tries: int = 60
    ) -> Box | None:
        """Place `plan` anywhere `within` (the picture); None where no room was found."""
        width, height = self._shape(plan)
        x, y, right, bottom = within or (0, 0, *self.size)
        for _ in range(tries):
            left = self.rng.randint(x, max(x, right - width))
            top = self.rng.randint(y, max(y, bottom - height))
            box = (left, top, left + width, top + height)
            if self._free(box, margin):
                self.has_grid.append((plan, box))
                return box
        return None

    def put_beside(self, plan: _Plan, anchor: Box, sides: tuple[str, ...]) -> Box | None:
        """Place `plan` against `anchor`, a small gap away, on one of `sides`."""
        width, height = self._shape(plan)
        for side in self.rng.sample(sides, len(sides)):
            gap = self.rng.randint(4, 9)
            left = (anchor[0] + anchor[2] - width) // 2
            top = (anchor[1] + anchor[3] - height) // 2
            if side in ("left", "right"):
                left = anchor[0] - gap - width if side == "left" else anchor[2] + gap
            else:
                top = anchor[1] - gap - height if side == "above" else anchor[3] + gap
            box = (left, top, left + width, top + height)
            if self._free(box, 4):
                self.has_grid.append((plan, box))
                return box
        return None


def _pick_size(rng: random.Random, side: int, kind: str) -> int:
    low, high = {"tiny": (15, 20), "small": (20, 30), "medium": (30, 44), "large": (44, 62)}[kind]
    return max(8, round(rng.randint(low, high) * side / 192))


@checked
def compose(
    rng: random.Random, suite: str, size: tuple[int, int]
) -> tuple[Image.Image, tuple[Thing, ...]]:
    """Draw one picture of `suite`; returns it with its things, in the order they were drawn."""
    board, side = _Board(rng, size), min(size)
    names = rng.sample(list(ICONS), len(ICONS))
    texts = rng.sample([*WORDS, *NUMBERS[: rng.choice((9, 20))]], 8)
    card_colors = rng.sample(list(COLORS), len(COLORS))
    favourite = rng.choice(list(COLORS))  # else two things would hardly ever share a colour

    def color() -> str:
        return favourite if rng.random() < 0.4 else rng.choice(list(COLORS))

    def card(low: int, high: int) -> _Plan:
        return _Plan(
            CARD, card_colors.pop(), max(8, round(rng.randint(low, high) * side / 192)), texts.pop()
        )

    def icon(kind: str, dull: bool = False) -> _Plan:
        return _Plan(names.pop(), color(), _pick_size(rng, side, kind), dull=dull)

    all_sides = ("left", "right", "above", "below")
    if suite == "scenes-text":
        for _ in range(rng.choice((1, 2, 2))):
            anchor = board.put(icon("medium"))
            if anchor:
                board.put_beside(card(20, 24), anchor, all_sides)
        for _ in range(rng.randint(1, 2)):
            board.put(card(12, 20))
        total = len(board.has_grid) + rng.randint(0, 2)
        kinds: tuple[str, ...] = ("tiny", "small", "medium")
    elif suite == "scenes-small":
        x, y = size[0] // 2, size[1] // 2
        for left, top in ((0, 0), (x, 0), (0, y), (x, y)):  # something loud in every crop
            board.put(icon("large"), (left, top, left + x, top + y))
        for _ in range(rng.randint(2, 3)):
            board.put(icon("tiny", dull=True))
        # a twin of something tiny, for questions that one glance does not answer
        if rng.random() < 0.5:
            twin = rng.choice(
                [plan for plan, _ in board.has_grid if plan.dull] or [icon("tiny", True)]
            )
            board.put(replace(twin, color=color(), pixels=_pick_size(rng, side, "tiny")))
        total, kinds = 0, ("large",)
    else:
        total = rng.randint(3, 7)
        shape = rng.random()
        if shape < 0.45:  # neighbours, for what-is-left-of
            anchor = board.put(icon("medium"))
            if anchor:
                board.put_beside(icon("medium"), anchor, all_sides)
        if shape > 0.25 and rng.random() < 0.6:  # a card beside an icon
            anchor = board.put(icon("medium"))
            if anchor:
                board.put_beside(card(20, 24), anchor, all_sides)
        if rng.random() < 0.45:
            board.put(card(12, 20))
        if rng.random() < 0.4:  # several of one kind
            name = names.pop()
            for _ in range(rng.randint(2, 4)):
                if len(board.has_grid) < total:
                    board.put(
                        _Plan(name, color(), _pick_size(rng, side, rng.choice(("small", "medium"))))
                    )
        kinds = ("tiny", "small", "medium", "medium", "large")
    while len(board.has_grid) < total:
        if board.put(icon(rng.choice(kinds))) is None and board.put(icon("tiny")) is None:
            break
    return _paint(rng, board, size)


def _paint(
    rng: random.Random, board: _Board, size: tuple[int, int]
) -> tuple[Image.Image, tuple[Thing, ...]]:
    image = background(rng, size)
    for plan, box in board.has_grid:
        fill: tuple[int, ...] = COLORS[plan.color]
        if plan.dull:
            behind = image.getpixel((box[0], box[1]))
            assert isinstance(behind, tuple)
            fill = tuple(round(0.75 * f + 0.25 * b) for f, b in zip(fill, behind, strict=True))
        if plan.text:
            area, ink = card_masks(plan.text, plan.pixels)
            image.paste(fill, box[:2], area)
            image.paste(ink_color(plan.color), box[:2], ink)
        else:
            image.paste(fill, box[:2], icon_mask(plan.name, plan.pixels))
    return image, tuple(
        Thing(plan.name, plan.color, box, plan.text) for plan, box in board.has_grid
    )


@checked
def stream(seed: int, *, split: str, suite: str, size: tuple[int, int]) -> random.Random:
    """The generator a scene is drawn from; the split is part of its seed, so the splits can't meet."""
    return random.Random(f"adafv/{split}/{suite}/{size[0]}x{size[1]}/{seed}")


def draw(
    seed: int, *, split: str, suite: str = "scenes", size: tuple[int, int] = (192, 192)
) -> Sample:
    """Draw scene `seed` of `suite` with its questions; `size` is (width, height) in pixels.

    Raises ValueError for an unknown split or suite, or a side below 96 pixels.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(SPLITS)}")
    if suite not in SCENE_SUITES:
        raise ValueError(f"suite={suite!r} is not drawn by code; known: {', '.join(SCENE_SUITES)}")
    if min(size) < 96:
        raise ValueError(f"size={size} is too small for a scene; use at least 96 pixels a side")
    rng = stream(seed, split=split, suite=suite, size=size)
    while True:
        image, things = compose(rng, suite, size)
        questions = ask(rng, things, suite, size)
        if questions:
            return Sample(f"{suite}/{split}/{seed}", image, tuple(questions), things)
